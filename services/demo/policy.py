"""The demo policy: a Qwen2 of about a million parameters."""

from typing import Final

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

CONTEXT_TOKENS: Final = 256


def build_policy(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """Build an untrained policy for a tokenizer, the same for the same seed."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        # Heads of 32: the smallest size that vLLM's CPU attention supports.
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        # Tied embeddings start too small at the usual 0.02 for a model this narrow.
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]
