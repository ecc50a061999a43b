"""Tiny random policies on disk, and what a trainer computes with them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from services.common.published_weights import Canary, PublishedWeights, publish

VOCABULARY = 64
MODEL_TOKENS = 256

CANARY_TOKENS = tuple(3 + i * 7 % 50 for i in range(60))


def write_policy(folder: Path, seed: int, tied: bool = True, dtype: torch.dtype = torch.float32) -> None:
    """A random policy; with tied embeddings a plain reload keeps its old output layer."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MODEL_TOKENS,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
    )
    Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)


@torch.no_grad()
def trainer_logprobs(folder: Path, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """Logprob of each token but the first in fp32, for each sequence."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    longest = max(map(len, sequences))
    logprobs: list[tuple[float, ...]] = []
    for start in range(0, len(sequences), 256):
        some = sequences[start : start + 256]
        # padding on the right is out of a causal model's sight
        tokens = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in some])
        known = model(tokens).logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        logprobs += [tuple(row[: len(s) - 1].tolist()) for row, s in zip(known, some, strict=True)]
    return logprobs


def published(root: Path, version: int, seed: int) -> PublishedWeights:
    """The policy of a seed as a version, and without a manifest in `root/policy-{seed}`."""
    folder = root / f"policy-{seed}"
    write_policy(folder, seed)
    canary = Canary(CANARY_TOKENS, trainer_logprobs(folder, [CANARY_TOKENS])[0])
    return publish(root / "published", version, [canary], lambda target: write_policy(target, seed), keep=10)
