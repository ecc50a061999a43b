"""A file of honest, hostile and broken rows, graded whole and in order while its graders are killed."""

from tests.integration.mixed_file import OWN, honest_rows, hostile_rows, mixed, run


def test_killed_graders_change_no_verdict_of_a_file_and_the_command_ends_well() -> None:
    rows = mixed(400, honest_rows(), hostile_rows([OWN], wall_s=0.5))
    ended = run(rows, kill_every_s=0.7, environment={"TREERL_VERIFIER_CACHE_BYTES": "0"})
    assert (ended.wrong, ended.status) == ([], 0)
    assert ended.verdicts["INFRA_ERROR"] == 1  # the row that is none
    assert ended.kills > 0
