"""Canary sequences: always something to prove a load by."""

from pathlib import Path

from services.common.problem import Domain, Problem
from services.demo.tokenizer import build_tokenizer
from services.trainer.weights import path_sequences, prompt_sequences
from tests.builders import branch, tree


def problem(prompt: str) -> Problem:
    return Problem("p", Domain.MATH, prompt, answer="1")


def test_a_prompt_of_one_token_is_a_canary_too(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    one, two = prompt_sequences(tmp_path, [problem("3"), problem("3+")])
    assert (len(one), len(two)) == (2, 2)


def test_the_canary_of_a_step_is_the_longest_path_of_a_few_trees() -> None:
    grown = tree(branch(0, None, 0, 3), branch(1, 0, 1, 5))
    assert path_sequences([grown] * 6) == [(7, 8, 9, 0, 100, 101, 102, 103, 104)] * 4
