"""A batched sampler in plain PyTorch, enough to measure a policy without starting an engine."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, Qwen2ForCausalLM


@torch.inference_mode()
def sample_tokens(
    policy: Qwen2ForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    top_p: float,
    max_tokens: int,
    end_token: int,
    randomness: torch.Generator,
) -> list[list[int]]:
    """Sample one continuation of each prompt; it ends with `end_token` unless it was cut at `max_tokens`.

    A temperature of 0 decodes greedily.
    """
    longest = max(map(len, prompts))
    tokens = torch.tensor([[end_token] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=policy.config)
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    sampled: list[torch.Tensor] = []
    for _ in range(max_tokens):
        logits = policy(
            input_ids=tokens,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = _choose(logits, temperature, top_p, randomness).masked_fill(finished, end_token)
        sampled.append(chosen)
        finished |= chosen == end_token
        if finished.all():
            break
        tokens = chosen[:, None]
        attention = torch.cat([attention, torch.ones_like(tokens)], dim=1)
        positions = positions[:, -1:] + 1
    rows = torch.stack(sampled, dim=1).tolist()
    return [row[: row.index(end_token) + 1] if end_token in row else row for row in rows]


def _choose(logits: torch.Tensor, temperature: float, top_p: float, randomness: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
    # A token stays when the more likely ones have not yet reached top_p: the most likely one always does.
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    picks = torch.multinomial(probabilities, 1, generator=randomness)
    return order.gather(-1, picks).squeeze(-1)
