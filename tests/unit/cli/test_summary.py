from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from services.cli.run_folder import RunFolder
from services.cli.summary import summarize, summarize_folder
from services.common.errors import PreconditionError
from tests.unit.cli.synthetic_run import AFTER, BEFORE, evaluation_row, step_row, write_run
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2


def steps() -> list[trainer_pb2.StepMetrics]:
    rows = [
        step_row(1, mismatch_kl=0.001, reload_s=0.1, reload_canary_max_abs_logprob_diff=2e-5),
        step_row(2, mismatch_kl=0.003, reload_s=0.9, reload_canary_max_abs_logprob_diff=7e-5, leaves=470),
        step_row(3, mismatch_kl=0.002, reload_s=0.2, reload_canary_max_abs_logprob_diff=1e-5, verdict_counts={}),
    ]
    return [ParseDict(row, trainer_pb2.StepMetrics()) for row in rows]


def evaluations() -> list[trainer_pb2.Evaluation]:
    rows = [evaluation_row(0, BEFORE), evaluation_row(3, AFTER)]
    return [ParseDict(row, trainer_pb2.Evaluation()) for row in rows]


def test_sums_means_medians_and_maxima() -> None:
    summary = summarize("treerl", 7, steps(), evaluations())
    assert summary["method"] == "treerl"
    assert summary["seed"] == 7
    assert summary["steps"] == 3
    assert summary["heldout_accuracy_before"] == 0.25  # (30 + 20 + 50) / 400
    assert summary["heldout_accuracy_after"] == 0.725  # (80 + 120 + 90) / 400
    assert summary["heldout_n"] == 400
    assert summary["prompts"] == 48
    assert summary["leaves"] == 480 + 470 + 480
    assert summary["decoded_tokens"] == 30_000
    assert summary["sample_s"] == 7.5
    assert summary["train_s"] == pytest.approx(3.6)
    assert summary["wall_s"] == 3 * 4.0 + 2 * 3.0
    assert summary["reload_s_p50"] == 0.2
    assert summary["reload_canary_max_abs_logprob_diff"] == 7e-5
    assert summary["mismatch_kl"] == pytest.approx(0.002)
    assert summary["mismatch_kl_max"] == 0.003
    assert summary["verdict_counts"] == {"CORRECT": 400, "UNPARSED": 20, "WRONG": 540}


def test_a_problem_about_two_things_counts_for_both() -> None:
    rows = {row["category"]: row for row in summarize("treerl", 7, steps(), evaluations())["heldout_by_category"]}
    assert list(rows) == ["cube", "square"]
    assert rows["cube"]["problems"] == 300
    assert rows["cube"]["accuracy_before"] == pytest.approx(50 / 300)
    assert rows["square"]["accuracy_after"] == pytest.approx(210 / 300)


def test_a_run_that_was_evaluated_only_once_has_no_summary() -> None:
    with pytest.raises(PreconditionError, match="has 3 steps and 1 evaluations"):
        summarize("treerl", 7, steps(), evaluations()[:1])


def test_a_folder_tells_method_and_seed_by_its_configuration(tmp_path: Path) -> None:
    summary = summarize_folder(RunFolder(write_run(tmp_path)))
    assert (summary["method"], summary["seed"], summary["steps"]) == ("treerl", 7, 4)


def test_a_step_that_was_done_again_counts_once_and_a_half_written_line_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "leaves": 1}\n{"step": 5, "lea')
    assert [(step.step, step.leaves) for step in folder.steps()] == [(1, 480), (2, 480), (3, 480), (4, 1)]
