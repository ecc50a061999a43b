"""The warm start stops by what the policy can do, publishes whole folders, and is trained once per recipe."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen2ForCausalLM

from services.demo.assessment import Assessment
from services.demo.policy import CONTEXT_TOKENS
from services.demo.problems import Split, generate_problems
from services.demo.sampling import sample_tokens
from services.demo.tokenizer import build_tokenizer
from services.demo.warm_start import Progress, Recipe, WarmStart, WarmStartError, warm_start
from services.demo.warm_start_cache import cached_warm_start, default_cache_folder, recipe_hash

BRIEF = Recipe(
    batch_size=4,
    step_limit=4,
    steps_between_checks=2,
    exercises_per_check=2,
    lowest_pass_rate=0.0,
    highest_pass_rate=1.0,
    lowest_soundness=0.0,
)


@pytest.fixture(scope="module")
def brief_start(tmp_path_factory: pytest.TempPathFactory) -> WarmStart:
    return warm_start(tmp_path_factory.mktemp("warm") / "start", lambda progress: None, BRIEF)


def test_the_folder_loads_with_the_usual_tools(brief_start: WarmStart) -> None:
    policy = Qwen2ForCausalLM.from_pretrained(brief_start.folder)
    tokenizer = AutoTokenizer.from_pretrained(brief_start.folder)
    assert GenerationConfig.from_pretrained(brief_start.folder).eos_token_id == tokenizer.eos_token_id
    assert policy.config.vocab_size == len(tokenizer)
    assert policy.config.tie_word_embeddings
    assert policy.config.max_position_embeddings == CONTEXT_TOKENS
    assert policy.num_parameters() < 5_000_000
    assert policy.dtype == torch.float32


def test_a_recipe_always_gives_the_same_policy(brief_start: WarmStart, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    again = warm_start(tmp_path / "again", lambda progress: None, BRIEF)
    other = warm_start(tmp_path / "other", lambda progress: None, replace(BRIEF, seed=1))
    weights = [(start.folder / "model.safetensors").read_bytes() for start in (brief_start, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_it_stops_at_the_first_acceptable_check(tmp_path: Path) -> None:
    seen: list[Progress] = []
    start = warm_start(tmp_path / "start", seen.append, BRIEF)
    assert [progress.step for progress in seen] == [1, 2]
    assert [bool(progress.assessments) for progress in seen] == [False, True]
    assert (start.steps, start.assessments) == (2, seen[-1].assessments)


def test_an_unteachable_recipe_fails_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WarmStartError, match="after 4 steps"):
        warm_start(tmp_path / "start", lambda progress: None, replace(BRIEF, lowest_pass_rate=0.9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("assessment", "accepted"),
    [
        (Assessment(pass_rate=0.3, soundness=0.95), True),
        (Assessment(pass_rate=0.1, soundness=0.95), False),
        (Assessment(pass_rate=0.9, soundness=0.95), False),
        (Assessment(pass_rate=0.3, soundness=0.50), False),
    ],
)
def test_acceptance_needs_mistakes_to_learn_from_but_few_slips(assessment: Assessment, accepted: bool) -> None:
    assert Recipe().accepts(assessment) is accepted


def test_the_learning_rate_ramps_up_then_falls_to_a_floor() -> None:
    recipe = Recipe(ramp_steps=10, decay_steps=100)
    assert recipe.learning_rate_factor(0) == pytest.approx(0.1)
    assert recipe.learning_rate_factor(10) == pytest.approx(0.9)
    assert recipe.learning_rate_factor(100) == recipe.learning_rate_factor(500) == 0.05


def test_a_cached_start_is_not_trained_again(tmp_path: Path) -> None:
    def never(progress: Progress) -> None:
        raise AssertionError("trained again")

    first = cached_warm_start(tmp_path, lambda progress: None, BRIEF)
    assert cached_warm_start(tmp_path, never, BRIEF) == first
    with pytest.raises(AssertionError, match="trained again"):
        cached_warm_start(tmp_path, never, replace(BRIEF, seed=1))


def test_losing_a_race_for_the_cache_returns_the_winner(brief_start: WarmStart, tmp_path: Path) -> None:
    def finish_first(progress: Progress) -> None:
        folder = tmp_path / recipe_hash(BRIEF)
        if not folder.exists():
            shutil.copytree(brief_start.folder, folder)

    assert cached_warm_start(tmp_path, finish_first, BRIEF).assessments == brief_start.assessments
    assert [path.name for path in tmp_path.iterdir()] == [recipe_hash(BRIEF)]


def test_an_existing_folder_is_refused_before_training(brief_start: WarmStart) -> None:
    with pytest.raises(FileExistsError):
        warm_start(brief_start.folder, lambda progress: pytest.fail("trained"), BRIEF)


def test_the_cache_lives_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "treerl" / "warm-start"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path.home() / ".cache" / "treerl" / "warm-start"


def test_batched_greedy_decoding_equals_one_prompt_at_a_time(brief_start: WarmStart) -> None:
    policy = Qwen2ForCausalLM.from_pretrained(brief_start.folder)
    tokenizer = build_tokenizer()
    prompts = [tokenizer.encode(problem["prompt"]) for problem in generate_problems(Split.TRAIN, 6, seed=0)]
    assert len(set(map(len, prompts))) > 1, "prompts of different lengths must need padding"

    def greedy(some: list[list[int]]) -> list[list[int]]:
        return sample_tokens(
            policy,
            some,
            temperature=0,
            top_p=1,
            max_tokens=12,
            end_token=tokenizer.eos_token_id,
            randomness=torch.Generator(),
        )

    assert greedy(prompts) == [row for prompt in prompts for row in greedy([prompt])]
