"""Which problems of its files a run trains and evaluates on."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import ConfigurationError
from services.common.problem import Domain, Problem
from services.common.problem_columns import RatedProblem
from services.common.settings import load_settings
from services.trainer.problem_selection import Criteria, load_problems, normalized, select
from services.trainer.settings import TrainerSettings

BASE: dict[str, Any] = {"model": Path("m"), "output_dir": Path("o"), "samplers": ("s:1",), "steps": 1}


def rated(prompt: str, pass_rate: float | None = None) -> RatedProblem:
    return RatedProblem(Problem(prompt, Domain.MATH, prompt, "1"), pass_rate)


def write(path: Path, *prompts: str) -> Path:
    path.write_text("".join(json.dumps({"question": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    return path


def prompts_of(settings: TrainerSettings, count: int) -> list[str]:
    dataset, _ = load_problems(settings)
    return sorted(problem.prompt for problem in dataset.problems_for_step(1, count))


def test_problems_are_left_out_by_the_first_reason_that_holds() -> None:
    criteria = Criteria(heldout={"what is 1+1?"}, pass_rates=(0.2, 0.8), max_prompt_tokens=12, count_tokens=len)
    problems = [
        rated("What  is\n1+1?"),
        rated("easy", 0.9),
        rated("hard", 0.1),
        rated("at the edge", 0.8),
        rated("as long as this prompt"),
        rated("unknown"),
    ]
    kept, left_out = select(problems, criteria)
    assert [rated.problem.prompt for rated in kept] == ["at the edge", "unknown"]
    assert left_out == {"held out": 1, "pass rate out of range": 2, "prompt too long": 1}


def test_a_curriculum_goes_from_easy_to_hard_and_shuffles_what_is_equally_hard(tmp_path: Path) -> None:
    rates = {"e": None, "c": 0.5, "a1": 0.9, "b": 0.8, "a2": 0.9, "a3": 0.9, "d": 0.0}
    rows = [{"prompt": prompt, "answer": "1", "pass_rate": rate} for prompt, rate in rates.items()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def order(seed: int, **changes: Any) -> list[str]:
        settings = TrainerSettings(**BASE, train_data=tmp_path / "train.jsonl", seed=seed, **changes)
        return [problem.prompt for problem in load_problems(settings)[0].problems_for_step(1, 14)]

    orders = [order(seed, curriculum="easy_first") for seed in range(10)]
    for found in orders:
        for epoch in (found[:7], found[7:]):
            assert set(epoch[:3]) == {"a1", "a2", "a3"}
            assert epoch[3:] == ["b", "c", "d", "e"]
    assert len({tuple(found) for found in orders}) > 1
    assert order(0)[3:7] != ["b", "c", "d", "e"]


def test_a_curriculum_without_pass_rates_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", "a", "b")
    with pytest.raises(ConfigurationError, match="no row of .* has a pass_rate"):
        load_problems(TrainerSettings(**BASE, train_data=data, curriculum="easy_first"))


@given(st.text())
def test_prompts_that_differ_in_case_and_white_space_alone_are_one(prompt: str) -> None:
    assert normalized(f"  {prompt.replace(' ', chr(10) + ' ')}\t") == normalized(prompt)
    assert normalized(normalized(prompt)) == normalized(prompt)


def test_a_file_name_alone_is_one_source(tmp_path: Path) -> None:
    settings = TrainerSettings(**BASE, train_data=write(tmp_path / "train.jsonl", "a", "b"))
    dataset, heldout = load_problems(settings)
    assert sorted(problem.prompt for problem in dataset.problems_for_step(1, 2)) == ["a", "b"]
    assert heldout == ()


def test_what_is_held_out_is_not_trained_on_unless_it_is_kept(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", "a", "b", "c")
    heldout = write(tmp_path / "heldout.jsonl", "x", "B")
    given = {**BASE, "train_data": train, "heldout_data": heldout, "heldout_problems": 1}
    assert prompts_of(TrainerSettings(**given), 2) == ["a", "c"]
    assert prompts_of(TrainerSettings(**given, heldout_overlap="keep"), 3) == ["a", "b", "c"]


def test_nothing_left_to_train_on_is_refused_with_the_reasons(tmp_path: Path) -> None:
    both = write(tmp_path / "both.jsonl", "a", "b")
    with pytest.raises(ConfigurationError, match=r"no problem is left to train on: 2 held out"):
        load_problems(TrainerSettings(**BASE, train_data=both, heldout_data=both))


def test_sources_columns_and_weights_come_from_the_configuration_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.jsonl").write_text(json.dumps({"Q": "b", "A": "1"}) + "\n" + "{}\n")
    write(tmp_path / "x.jsonl", "x", "x2")
    write(tmp_path / "y.jsonl", "y", "y2")
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
        [trainer]
        bad_rows = "skip"
        heldout_problems = 1
        [trainer.train_data.first]
        path = "{tmp_path}/a.jsonl"
        weight = 3
        [trainer.train_data.second]
        path = "{tmp_path}/b.jsonl"
        columns = {{ prompt = "Q", answer = "A" }}
        [trainer.heldout_data.x]
        path = "{tmp_path}/x.jsonl"
        [trainer.heldout_data.y]
        path = "{tmp_path}/y.jsonl"
        """
    )
    settings = load_settings(TrainerSettings, config, model=Path("m"), output_dir=Path("o"), samplers=("s:1",), steps=1)
    dataset, heldout = load_problems(settings)
    assert [problem.prompt for problem in dataset.problems_for_step(1, 4)] == ["a", "a", "b", "a"]
    assert [problem.prompt for problem in heldout] == ["x", "y"]


def test_a_file_may_be_named_by_the_environment_and_by_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREERL_TRAINER_TRAIN_DATA", "from-environment.jsonl")
    assert load_settings(TrainerSettings, **BASE).train_data == Path("from-environment.jsonl")
    flags = ["--train-data", "from-flag.jsonl"]
    assert load_settings(TrainerSettings, None, flags, **BASE).train_data == Path("from-flag.jsonl")


def test_long_prompts_are_told_by_the_policy_s_own_tokenizer(tmp_path: Path) -> None:
    from services.demo.tokenizer import build_tokenizer

    build_tokenizer().save_pretrained(tmp_path / "model")
    train = write(tmp_path / "train.jsonl", "Start with 7", "zzzzzzzz")
    given = {**BASE, "model": tmp_path / "model", "train_data": train}
    assert prompts_of(TrainerSettings(**given, max_prompt_tokens=4), 1) == ["Start with 7"]
    with pytest.raises(ConfigurationError, match="max_prompt_tokens needs a tokenizer"):
        load_problems(TrainerSettings(**{**given, "model": tmp_path}, max_prompt_tokens=4))
