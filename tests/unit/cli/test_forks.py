"""`treerl forks` and `treerl report --compare`, on made-up runs."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.fork_table import ForkRow, ForkTable
from services.cli.forks import drawn_table
from services.cli.main import main
from services.cli.shares import Share
from services.common.tree import ForkSelection
from tests.unit.cli.synthetic_run import write_run


def run_treerl(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["treerl", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_tables_of_several_runs_are_one_json_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", steps=2)
    assert run_treerl(monkeypatch, "forks", one, two, "--json") == 0
    tables = json.loads(capsys.readouterr().out)
    assert [(table["run"], table["selection"]) for table in tables] == [("one", "surprisal"), ("two", "surprisal")]
    assert [table["rows"][0]["forks"] for table in tables] == [37, 15]
    shares = {row["token_class"]: row["share"] for row in tables[0]["rows"]}
    assert shares["digit"] + shares["operator"] + shares["punctuation"] == pytest.approx(1)


def test_tables_are_drawn_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_treerl(monkeypatch, "forks", write_run(tmp_path / "one")) == 0
    printed = capsys.readouterr().out
    assert "one: 37 forks by surprisal" in printed
    assert "outcome changed" in printed
    assert "operator" in printed


def test_tokens_that_look_like_markup_are_shown_as_they_are() -> None:
    row = ForkRow("punctuation", Share(1, 1), 1.0, 0.5, Share(0, 1), 0.0, ("[/b]", "[red]"))
    console = Console(width=120, record=True)
    console.print(drawn_table(ForkTable("[run]", ForkSelection.RANDOM, (row,))))
    printed = console.export_text()
    assert "'[/b]'  '[red]'" in printed
    assert "[run]: 1 forks by random" in printed


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_treerl(monkeypatch, "forks", tmp_path / "nowhere") == 2
    assert run_treerl(monkeypatch, "forks", tmp_path) == 2
    missing, no_tokenizer = capsys.readouterr().err.splitlines()
    assert "no such folder" in missing
    assert "holds no weights/*/tokenizer.json" in no_tokenizer


def test_a_report_names_the_run_it_compares_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    assert run_treerl(monkeypatch, "report", one, "--compare", two) == 0
    assert capsys.readouterr().out.strip() == str(one / "report.html")
    assert "two: 37 forks by surprisal" in (one / "report.html").read_text()
