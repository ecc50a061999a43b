"""The demo's tokenizer gives every text back, keeps answers short, and survives saving."""

from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Tokenizer

from services.demo.assessment import MAX_TOKENS
from services.demo.exercise import Exercise, habit_combinations
from services.demo.problems import Split, draw_exercises
from services.demo.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def exercises() -> list[Exercise]:
    return list(islice(draw_exercises(Split.TRAIN, Random(11)), 100))


def test_prompts_and_answers_come_back_exactly(exercises: list[Exercise]) -> None:
    for exercise in exercises:
        for text in (exercise.prompt, *map(exercise.response, habit_combinations(exercise))):
            assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_answers_fit_the_token_budget(exercises: list[Exercise]) -> None:
    lengths = [
        len(TOKENIZER.encode(exercise.response(habits)))
        for exercise in exercises
        for habits in habit_combinations(exercise)
    ]
    assert min(lengths) >= 25
    assert max(lengths) < MAX_TOKENS, "an answer needs room for the end-of-text token"


def test_words_are_whole_and_digits_single() -> None:
    assert TOKENIZER.tokenize("\\boxed{42}") == ["\\boxed{", "4", "2", "}"]
    assert TOKENIZER.tokenize("7 * 7 = 49 -> 9\n")[:4] == ["7", " * ", "7", " = "]


@settings(max_examples=30)
@given(st.text())
def test_unknown_text_encodes_to_known_tokens(text: str) -> None:
    assert all(0 <= token < len(TOKENIZER) for token in TOKENIZER.encode(text))


@settings(max_examples=30)
@given(st.text(alphabet=st.characters(codec="ascii")))
def test_ascii_text_comes_back_exactly(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_a_saved_folder_loads_as_the_same_tokenizer(tmp_path: Path, exercises: list[Exercise]) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, Qwen2Tokenizer)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)
    assert loaded.eos_token_id != loaded.pad_token_id
    for exercise in exercises:
        assert loaded.encode(exercise.prompt) == TOKENIZER.encode(exercise.prompt)
