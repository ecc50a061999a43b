"""Supervised batches of demonstrations, drawn without end from the training split."""

import random
from collections.abc import Iterator

from transformers import Qwen2Tokenizer

from services.demo.exercise import draw_habits
from services.demo.problems import Split, draw_exercises
from services.sft.examples import Batch, Demonstration, encoder, pad


def demonstration_batches(tokenizer: Qwen2Tokenizer, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yield batches of demonstrations, each following habits drawn anew."""
    randomness = random.Random(seed)
    exercises = draw_exercises(Split.TRAIN, randomness)
    encode = encoder(tokenizer, prompt_format="plain", system_prompt="")
    while True:
        drawn = (next(exercises) for _ in range(batch_size))
        demonstrations = (
            Demonstration(exercise.prompt, exercise.response(draw_habits(exercise, randomness))) for exercise in drawn
        )
        yield pad(list(map(encode, demonstrations)), tokenizer.pad_token_id)
