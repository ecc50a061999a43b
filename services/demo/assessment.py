"""How good a policy is at demo exercises, measured by sampling the way the demo's rollouts sample."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from services.demo.exercise import Domain, Exercise, habit_combinations
from services.demo.grading import is_correct
from services.demo.problems import Split, draw_exercises, problem_of
from services.demo.sampling import sample_tokens

TEMPERATURE: Final = 1.2
TOP_P: Final = 0.95
# No habit writes a longer answer.
MAX_TOKENS: Final = 64


@dataclass(frozen=True)
class Assessment:
    """Two shares of the sampled answers, between 0 and 1."""

    pass_rate: float
    """Answers that solve their exercise."""
    soundness: float
    """Answers that follow habits, right or wrong, from beginning to end: the rest slipped on the way."""


def development_exercises(domain: Domain, count: int, seed: int) -> list[Exercise]:
    """Return `count` exercises of one domain from the development split."""
    exercises = draw_exercises(Split.DEV, random.Random(seed))
    return list(islice((exercise for exercise in exercises if exercise.domain == domain), count))


def assess(policy: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, exercises: Sequence[Exercise], seed: int) -> Assessment:
    """Sample one answer to each exercise and grade it."""
    samples = sample_tokens(
        policy,
        [tokenizer.encode(exercise.prompt) for exercise in exercises],
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_tokens=MAX_TOKENS,
        end_token=tokenizer.eos_token_id,
        randomness=torch.Generator().manual_seed(seed),
    )
    graded = [
        (is_correct(problem_of(exercise), response), response in map(exercise.response, habit_combinations(exercise)))
        for exercise, response in zip(exercises, tokenizer.batch_decode(samples, skip_special_tokens=True), strict=True)
    ]
    passed, sound = zip(*graded, strict=True)
    return Assessment(pass_rate=sum(passed) / len(graded), soundness=sum(sound) / len(graded))
