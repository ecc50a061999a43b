"""Attention over packed trees: every token sees its own path and nothing else.

Registered with transformers under `NAME`, so that any model whose attention goes through that interface can use it; a
layer's sliding window is honoured, counted along the path. On CUDA it is FlexAttention with a block mask. Elsewhere it
is one call of scaled_dot_product_attention for each chain, over its own tokens and its prompt's: a dense mask over a
whole tree would cost more than packing saves.

Not covered: attention with sinks, soft caps or chunks, and layers that are no attention.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from services.trainer.packing import TreeLayout

NAME = "treerl_tree"


def sees(query: Tensor, key: Tensor, end_s: Tensor, position_s: Tensor, window: int | None) -> Tensor:
    """Whether tokens see others, by their indices; elementwise.

    Args:
        query: indices of tokens that look.
        key: indices of tokens that are looked at.
        end_s: as in `TreeLayout`.
        position_s: as in `TreeLayout`.
        window: tokens of its path that a token sees, itself included; None for all.
    """
    on_path = (key <= query) & (query < end_s[key])
    return on_path if window is None else on_path & (position_s[query] - position_s[key] < window)


class Span(NamedTuple):
    """Consecutive tokens that attend in one call.

    Attributes:
        length: how many.
        keys: indices of the spans that they look at: a prompt, or a prompt and themselves.
        mask_qk: what is added to their scores: 0, or minus infinity where they do not see.
    """

    length: int
    keys: tuple[int, ...]
    mask_qk: Tensor


class TreeAttention:
    """Which tokens of one packed microbatch see which, in the forms that attention kernels take."""

    def __init__(self, layout: TreeLayout, device: torch.device) -> None:
        self.position_s = torch.from_numpy(layout.position_s).to(device)
        self._end_s = torch.from_numpy(layout.end_s).to(device)
        self._chains = layout.chains
        self._block_masks: dict[int | None, BlockMask] = {}
        self._spans: dict[tuple[int | None, torch.dtype], list[Span]] = {}

    def block_mask(self, window: int | None) -> BlockMask:
        """For FlexAttention; made once for each window."""
        if window not in self._block_masks:
            end_s, position_s = self._end_s, self.position_s  # the mask is compiled: it captures tensors alone
            self._block_masks[window] = create_block_mask(
                lambda batch, head, query, key: sees(query, key, end_s, position_s, window),
                *(None, None, len(end_s), len(end_s)),
                device=end_s.device,
            )
        return self._block_masks[window]

    def spans(self, window: int | None, dtype: torch.dtype) -> list[Span]:
        """For calls of scaled_dot_product_attention: prompts and chains as they follow each other; made once."""
        if (window, dtype) not in self._spans:
            index_s = torch.arange(len(self._end_s), device=self._end_s.device)
            spans: list[Span] = []
            for prompt_start, prompt_end, start, end in self._chains:
                prompt_s, chain_s = index_s[prompt_start:prompt_end], index_s[start:end]
                if start == prompt_end:
                    prompt = len(spans)
                    spans.append(Span(len(prompt_s), (prompt,), self._mask(prompt_s, prompt_s, window, dtype)))
                mask_qk = self._mask(chain_s, torch.cat([prompt_s, chain_s]), window, dtype)
                spans.append(Span(len(chain_s), (prompt, len(spans)), mask_qk))
            self._spans[window, dtype] = spans
        return self._spans[window, dtype]

    def _mask(self, query_q: Tensor, key_k: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        seen_qk = sees(query_q[:, None], key_k[None], self._end_s, self.position_s, window)
        return torch.zeros(seen_qk.shape, dtype=dtype, device=seen_qk.device).masked_fill_(~seen_qk, -torch.inf)


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree_attention: TreeAttention,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: heads (1, h, s, d) in, (1, s, h, d) out.

    Raises:
        ValueError: the layer caps its scores (`softcap`) or has sinks (`s_aux`).
    """
    if softcap is not None or s_aux is not None:  # with small scores their lack would hardly show
        raise ValueError("its attention has soft caps or sinks")
    if query.is_cuda:
        mask = tree_attention.block_mask(sliding_window)
        return flex_attention_forward(module, query, key, value, mask, scaling=scaling)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    spans = tree_attention.spans(sliding_window, query.dtype)
    # split, not sliced: the gradient of each slice would be a tensor of the whole length
    lengths = [span.length for span in spans]
    queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
    attended = [
        scaled_dot_product_attention(
            of_span,
            torch.cat([keys[index] for index in span.keys], dim=2),
            torch.cat([values[index] for index in span.keys], dim=2),
            attn_mask=span.mask_qk,
            scale=scaling,
        )
        for of_span, span in zip(queries, spans, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tree_attention_forward)
