"""`treerl advantages`: recorded trees and trees of a run, and what is said of rows that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.advantages import advantages_of
from services.cli.main import app
from services.cli.run_folder import RunFolder
from services.cli.tree_records import parse_tree
from services.common.errors import InvalidRequestError
from services.trainer.advantages import weigh_tree
from tests.unit.cli.synthetic_run import write_run


def segment(number: int, parent: int, num_tokens: int = 2, reward: float | None = None) -> dict[str, Any]:
    return {"id": number, "parent": parent, "num_tokens": num_tokens, "reward": reward}


# the root, a segment that two leaves share, and a leaf of its own; ids are the author's business
SEGMENTS = [
    segment(0, -1, 0),
    segment(5, 0),
    segment(9, 5, reward=1.0),
    segment(6, 5, reward=0.0),
    segment(7, 0, reward=0.0),
]


def line(**changes: Any) -> bytes:
    return json.dumps({"case": "a", "segments": SEGMENTS} | changes).encode()


def test_every_graded_leaf_has_the_weights_along_its_path() -> None:
    # V: root 1/3, segment 5 1/2, leaves 1, 0, 0
    found = advantages_of(parse_tree(line(M=2)), "unweighted")

    paths = {path["leaf"]: (path["segments"], path["values"]) for path in found["paths"]}
    assert found["case"] == "a"
    assert paths.keys() == {9, 6, 7}
    assert paths[9][0] == [5, 9]
    assert paths[9][1] == pytest.approx([1 / 3, 2 / 3 + 1 / 2])
    assert paths[6][1] == pytest.approx([1 / 3, -1 / 3 - 1 / 2])
    assert paths[7] == ([7], pytest.approx([-2 / 3]))


def test_a_leaf_without_a_reward_is_left_out() -> None:
    rows = [*SEGMENTS[:3], segment(6, 5), SEGMENTS[4]]

    found = advantages_of(parse_tree(line(segments=rows)), "ga")

    assert {path["leaf"]: path["values"] for path in found["paths"]} == {9: [0.5, 0.5], 7: [-0.5]}


def test_the_rows_selection_and_reweighting_are_taken() -> None:
    found = advantages_of(parse_tree(line(selected_leaves=[7, 9], reweight="original")), "treerl-official")

    # centred 1, -1/2, -1/2: v(5) = 1/4, v(9) = 1, v(7) = -1/2
    assert [path["leaf"] for path in found["paths"]] == [7, 9]
    assert [path["values"] for path in found["paths"]] == [[-1.0], [0.5, 1.75]]


@pytest.mark.parametrize("selected", [[7, 6], [7]])
def test_a_selected_leaf_without_a_reward_counts_as_not_selected(selected: list[int]) -> None:
    rows = [*SEGMENTS[:3], segment(6, 5), SEGMENTS[4]]

    found = advantages_of(parse_tree(line(segments=rows, selected_leaves=selected)), "treerl-official")

    # centred 1, -1: v(7) = -1
    assert found["paths"] == [{"leaf": 7, "segments": [7], "values": [-2.0]}]


def test_a_tree_of_which_nothing_is_selected_has_no_path() -> None:
    assert advantages_of(parse_tree(line(case=3, selected_leaves=[])), "treerl-official") == {"case": 3, "paths": []}


def test_trees_of_a_run_get_the_weights_that_they_were_trained_with(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    result = CliRunner().invoke(app, ["advantages", "--file", str(folder / "trees.jsonl.zst"), "--json"])

    rows = [json.loads(text) for text in result.stdout.splitlines()]
    trees = [trained.tree for trained in RunFolder(folder).trees()]
    assert result.exit_code == 0
    assert [row["case"] for row in rows] == [tree.tree_id for tree in trees]
    for row, tree in zip(rows, trees, strict=True):
        weights = {piece.segment.id: piece.weight for piece in weigh_tree(tree, "treerl").segments}
        for path in row["paths"]:
            assert path["values"] == [weights[number] for number in path["segments"]]


def test_a_row_that_is_none_is_told_with_its_line_and_the_others_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "trees.jsonl"
    file.write_bytes(b"\n".join([line(), b"", b"{broken", line(case="b")]))

    result = CliRunner().invoke(app, ["advantages", "--file", str(file), "--json"])

    assert result.exit_code == 2
    assert [json.loads(text)["case"] for text in result.stdout.splitlines()] == ["a", "b"]
    [complaint] = result.stderr.splitlines()
    assert complaint.startswith(f"{file}:3: not JSON text")


def test_without_json_a_path_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "trees.jsonl"
    file.write_bytes(line())

    result = CliRunner().invoke(app, ["advantages", "--file", str(file), "--advantage", "ga"])

    assert result.stdout.splitlines()[:2] == ["a", "  leaf 6  5: +0.1179  6: -0.3333"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"[1]", "expected a JSON object, got list"),
        (b"\xff", "not JSON text"),
        (b"[" * 100_000, "not JSON text"),
        (b'{"case": "a"}', "segments: Field required"),
        (line(segments=[segment(0, -1)]), "segments: List should have at least 2 items"),
        (line(segments=[segment(0, -1), segment(0, 0)]), "segment 0 is there twice"),
        (line(segments=[segment(0, -1), segment(2, 1), segment(1, 0)]), "segment 2 has parent 1: the root"),
        (line(segments=[segment(0, -1), segment(1, -1)]), "segment 1 has parent -1"),
        (
            line(segments=[segment(0, -1), segment(1, 0, reward=1.0), segment(2, 1)]),
            "children and a reward",
        ),
        (line(segments=[segment(0, -1), segment(1, 0, num_tokens=-1)]), "segments.1.num_tokens"),
        (line(segments=[segment(0, -1), segment(1, 0, reward=float("nan"))]), "segments.1.reward"),
        (
            line(segments=[segment(0, -1), segment(1, 0, reward=1e300), segment(2, 0, reward=1e300)]),
            "segments.1.reward",
        ),
        (line(selected_leaves=[5]), "selected leaf 5 is no leaf"),
        (line(selected_leaves=[9, 7, 9]), "leaf 9 is selected 2 times"),
        (b'{"case": "a"\n', r"line 1 column"),
        (line(reweight="square"), "reweight: Input should be 'sqrt', 'original' or 'uniform'"),
        (b'{"tree": 5}', "tree: "),
        (b'{"tree": {"problem": 5}}', "tree: "),
        (b'{"tree": {"no_such_field": 1}}', "tree: .*no_such_field"),
        (b'{"tree": {"branches": [{"id": 3}]}}', "branch 3"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse_tree(row)


def test_forked_responses_are_no_chains() -> None:
    with pytest.raises(InvalidRequestError, match="2 of these responses share tokens"):
        advantages_of(parse_tree(line()), "rloo")
