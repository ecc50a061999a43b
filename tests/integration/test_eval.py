"""`treerl eval` against a real sampler's servicer and real graders; the engine alone is scripted."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cli.eval import EvalOptions, run_eval
from services.cli.eval_questions import Drawing
from services.common.errors import PreconditionError, TreerlError, UnavailableError
from services.common.problem_files import read_problem_file
from services.common.tree import FinishReason, VersionSpan
from services.demo.policy import build_policy
from services.demo.tokenizer import build_tokenizer
from services.sampler.engine import Completion, CompletionRequest
from tests.scripted_engine import DigitCodec, ScriptedEngine
from tests.served_sampler import served_sampler

MATH = [
    {"question": "What is 1+1?", "answer": "It is 1+1=<<1+1=2>>2.\n#### 2"},
    {"question": "What is half of one?", "answer": "#### 1/2"},
]
"""Rows as GSM8K publishes them."""
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def two():\n",
    "canonical_solution": "    return 2\n",
    "test": "def check(candidate):\n    assert candidate() == 2\n",
    "entry_point": "two",
}
SOLUTIONS = {
    "What is 1+1?": "So \\boxed{2}.",
    "What is half of one?": "The answer is 0.5",
    "def two():\n": "```python\ndef two():\n    return 2\n```",
}


class ReplayedCodec(DigitCodec):
    """A prompt is one token, which decodes as the solution of its problem."""

    def __init__(self, solutions: dict[str, str]) -> None:
        self._prompts = list(solutions)
        self._solutions = list(solutions.values())

    def encode(self, prompt: str, max_response_tokens: int) -> tuple[int, ...]:
        return (self._prompts.index(prompt),)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._solutions[token] for token in token_ids)


class ReplayingEngine(ScriptedEngine):
    """Answers every prompt with its own token; fails after so many answers until it is revived."""

    def __init__(self, answers: int | None = None) -> None:
        super().__init__()
        self._answers = answers

    def revive(self) -> None:
        """Answer from now on."""
        self._answers = None

    async def complete(self, request: CompletionRequest) -> Completion:
        if self._answers is not None and len(self.requests) >= self._answers:
            raise UnavailableError("the engine died")
        self.requests.append(request)
        return Completion(
            token_ids=request.token_ids,
            logprobs=(-1.0,),
            entropies=(),
            versions=(VersionSpan(self.policy_version, 1),),
            finish_reason=FinishReason.STOP,
            prefilled_tokens=1,
        )


class ReloadedEngine(ReplayingEngine):
    """Is given other weights after its first answer."""

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        self.policy_version = 7
        return completion


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    """Two data sets."""
    math, code = tmp_path / "gsm8k.jsonl", tmp_path / "humaneval.jsonl"
    math.write_text("".join(json.dumps(row) + "\n" for row in MATH))
    code.write_text(json.dumps(HUMANEVAL) + "\n")
    return math, code


def options(files: tuple[Path, ...], address: str, samples: int = 2) -> EvalOptions:
    return EvalOptions(
        model=None,
        data=files,
        config=None,
        sampler_changes={},
        drawing=Drawing(samples=samples, temperature=1.0, top_p=1.0, max_tokens=8, seed=0),
        limit=None,
        output=files[0].parent / "evaluation",
        samplers=(address,),
        verifier=None,
    )


def responses(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    lines = (files[0].parent / "evaluation" / "responses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


async def test_a_policy_that_replays_the_solutions_solves_everything(
    files: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async with served_sampler(ReplayingEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=True)
    figures = json.loads(capsys.readouterr().out)["data"]
    for name, problems in (("gsm8k", 2), ("humaneval", 1)):
        assert figures[name]["problems"] == problems
        assert figures[name]["greedy"]["value"] == figures[name]["average"]["value"] == 1.0
        assert {k: figure["value"] for k, figure in figures[name]["pass_at"].items()} == {"1": 1.0, "2": 1.0}
    assert all(row["outcome"] == "CORRECT" for row in responses(files))


async def test_the_recorded_gold_answers_solve_gsm8k(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared_data / "gsm8k_test.jsonl"
    problems = [rated.problem for rated in read_problem_file(data).problems]
    solutions = {problem.prompt: f"It is \\boxed{{{problem.answer}}}." for problem in problems}
    async with served_sampler(ReplayingEngine(), ReplayedCodec(solutions)) as sampler:
        asked = options((data,), sampler.address, samples=0)
        await run_eval(replace(asked, output=tmp_path), as_json=True)
    figures = json.loads(capsys.readouterr().out)["data"]["gsm8k_test"]
    assert (figures["problems"], figures["greedy"]["value"], figures["ungraded"]) == (1319, 1.0, 0)


async def test_an_evaluation_that_broke_off_goes_on_and_asks_nothing_twice(files: tuple[Path, ...]) -> None:
    dying = ReplayingEngine(answers=4)
    async with served_sampler(dying, ReplayedCodec(SOLUTIONS)) as sampler:
        with pytest.raises(TreerlError, match="the engine died"):
            await run_eval(options(files, sampler.address), as_json=True)
        begun = responses(files)
        dying.revive()
        await run_eval(options(files, sampler.address), as_json=True)
    whole = responses(files)
    assert whole[: len(begun)] == begun
    assert set(Counter((row["data"], row["id"], row["sample"]) for row in whole).values()) == {1}
    assert len(whole) == 9


async def test_a_finished_evaluation_is_told_again_without_any_service(
    files: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async with served_sampler(ReplayingEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=True)
    first = capsys.readouterr().out
    await run_eval(options(files, sampler.address), as_json=True)
    assert capsys.readouterr().out == first


async def test_another_evaluation_does_not_go_into_the_same_folder(files: tuple[Path, ...]) -> None:
    async with served_sampler(ReplayingEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=True)
        with pytest.raises(PreconditionError, match="another drawing"):
            await run_eval(options(files, sampler.address, samples=3), as_json=True)


async def test_weights_that_were_replaced_meanwhile_are_told(
    files: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async with served_sampler(ReloadedEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=False)
    assert "replaced meanwhile: responses are of versions 0, 7" in capsys.readouterr().out


async def test_a_prompt_that_the_sampler_refuses_counts_as_unsolved(
    files: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files[0].write_text(json.dumps({"question": "0" * 100_000, "answer": "2"}) + "\n")
    async with served_sampler(ReplayingEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=True)
    figures = json.loads(capsys.readouterr().out)["data"]
    assert (figures["gsm8k"]["greedy"]["value"], figures["gsm8k"]["refused"]) == (0.0, 3)
    assert figures["humaneval"]["greedy"]["value"] == 1.0


async def test_the_table_names_data_sets_and_their_figures(
    files: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async with served_sampler(ReplayingEngine(), ReplayedCodec(SOLUTIONS)) as sampler:
        await run_eval(options(files, sampler.address), as_json=False)
    table = capsys.readouterr().out
    assert all(words in table for words in ("gsm8k", "humaneval", "greedy", "avg@2", "pass@2", "100.0%"))


@pytest.mark.vllm
async def test_a_model_folder_is_served_by_a_sampler_of_the_command_s_own(
    files: tuple[Path, ...], tmp_path: Path
) -> None:
    model, tokenizer = tmp_path / "model", build_tokenizer()
    build_policy(tokenizer, seed=0).save_pretrained(model)
    tokenizer.save_pretrained(model)
    asked = replace(options(files, ""), model=model, samplers=(), sampler_changes={"kv_cache_gib": 0.5})
    await run_eval(asked, as_json=True)
    figures = json.loads((asked.output / "summary.json").read_text())["data"]
    assert (figures["gsm8k"]["problems"], figures["gsm8k"]["responses"], figures["gsm8k"]["refused"]) == (2, 6, 0)
    assert all(1 <= row["tokens"] <= 8 for row in responses(files))
