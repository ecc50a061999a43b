"""The same problems from JSONL, Parquet and saved Hugging Face data sets; bad rows by place."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from pyarrow import Table, parquet

from services.common.errors import ConfigurationError
from services.common.problem_files import read_problem_file

ROWS = [{"id": name, "domain": "math", "prompt": f"{name}?", "answer": name} for name in "abc"]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def ids(path: Path, split: str = "") -> list[str]:
    return [rated.problem.id for rated in read_problem_file(path, split=split).problems]


def test_jsonl_passes_over_blank_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [json.dumps(ROWS[0]), "", json.dumps(ROWS[1])])
    assert ids(path) == ["a", "b"]


def test_parquet_and_saved_data_sets_hold_the_same_problems_as_jsonl(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", [json.dumps(row) for row in ROWS])
    parquet.write_table(Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    wanted = read_problem_file(lines)
    assert read_problem_file(tmp_path / "rows.parquet") == wanted
    assert read_problem_file(tmp_path / "saved") == wanted


def test_a_saved_data_set_with_splits_is_read_split_by_split(tmp_path: Path) -> None:
    splits = DatasetDict({"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])})
    splits.save_to_disk(str(tmp_path / "saved"))
    assert ids(tmp_path / "saved", "train") == ["a", "b"]
    with pytest.raises(ConfigurationError, match="got split '', expected train, test"):
        ids(tmp_path / "saved")


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{", r"rows\.jsonl:2: not JSON"),
        ("[]", r"rows\.jsonl:2: expected a JSON object, got list"),
        (json.dumps({"id": "b", "domain": "math", "prompt": "?"}), r"rows\.jsonl:2: .*needs 'answer'"),
        (json.dumps(ROWS[0]), r"rows\.jsonl:2: id 'a' was taken by .*rows\.jsonl:1"),
    ],
)
def test_a_bad_row_is_named_by_its_line_or_left_out_and_counted(tmp_path: Path, second_line: str, message: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [json.dumps(ROWS[0]), second_line, json.dumps(ROWS[2])])
    with pytest.raises(ConfigurationError, match=message):
        read_problem_file(path)
    read = read_problem_file(path, bad_rows="skip")
    assert ([rated.problem.id for rated in read.problems], read.skipped) == (["a", "c"], 1)


@pytest.mark.parametrize("second_line", [b'{"prompt": "\xff"}', b'{"prompt": "\\ud800", "answer": "1"}'])
def test_a_row_that_is_no_text_is_a_bad_row(tmp_path: Path, second_line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(ROWS[0]).encode(), second_line, json.dumps(ROWS[2]).encode()]))
    with pytest.raises(ConfigurationError, match=r"rows\.jsonl:2: not JSON text: .* codec can't"):
        read_problem_file(path)
    assert read_problem_file(path, bad_rows="skip").skipped == 1


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    parquet.write_table(Table.from_pylist([ROWS[0], ROWS[1] | {"answer": None}]), tmp_path / "rows.parquet")
    with pytest.raises(ConfigurationError, match=r"rows\.parquet:2: .*needs 'answer'"):
        read_problem_file(tmp_path / "rows.parquet")


def test_a_missing_empty_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read data file"):
        read_problem_file(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigurationError, match="holds no problem"):
        read_problem_file(write_lines(tmp_path / "empty.jsonl", []))
    (tmp_path / "rows.parquet").write_text("no Parquet")
    with pytest.raises(ConfigurationError, match="cannot read data file"):
        read_problem_file(tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match="cannot read data folder"):
        read_problem_file(tmp_path / "folder")


@pytest.mark.parametrize(("name", "count"), [("math500", 500), ("gsm8k_test", 1319), ("humaneval_first82", 82)])
def test_every_row_of_the_recorded_data_sets_is_a_problem(shared_data: Path, name: str, count: int) -> None:
    assert len(read_problem_file(shared_data / f"{name}.jsonl").problems) == count
