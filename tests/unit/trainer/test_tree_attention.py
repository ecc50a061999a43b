"""Who sees whom in a packed microbatch, in both forms that attention kernels take."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention

from services.common.tree import Tree
from services.common.verdict import Outcome
from services.trainer.advantages import weigh_tree
from services.trainer.packing import TreeLayout, pack
from services.trainer.rows import tree_rows
from services.trainer.tree_attention import TreeAttention, tree_attention_forward
from tests.builders import branch, tree
from tests.strategies import trees

CPU = torch.device("cpu")
windows = st.none() | st.integers(1, 8)
right = st.just(Outcome.CORRECT)


def layout_of(step: list[Tree]) -> TreeLayout:
    """All trees in one microbatch, each with a prompt of its own."""
    trees_with_prompts = [replace(t, prompt_token_ids=(1000 + i, 2, 3)) for i, t in enumerate(step)]
    rows = [row for t in trees_with_prompts for row in tree_rows(weigh_tree(t, "unweighted"), "tree")]
    (batch,) = pack([replace(row, weight_n=row.weight_n + 1) for row in rows], "tree", 10_000, "token")
    assert batch.layout is not None
    return batch.layout


def block_mask(layout: TreeLayout, window: int | None) -> Tensor:
    """What FlexAttention's mask lets through (q, k)."""
    length = len(layout.end_s)
    mask = create_mask(TreeAttention(layout, CPU).block_mask(window).mask_mod, 1, 1, length, length, device="cpu")
    return mask[0, 0]


def span_mask(layout: TreeLayout, window: int | None) -> Tensor:
    """What the masks of the single calls let through (q, k)."""
    seen_qk = torch.zeros(len(layout.end_s), len(layout.end_s), dtype=torch.bool)
    spans = TreeAttention(layout, CPU).spans(window, torch.float32)
    indices = torch.arange(len(layout.end_s)).split([span.length for span in spans])
    for queries, span in zip(indices, spans, strict=True):
        assert set(span.mask_qk.unique().tolist()) <= {0.0, -torch.inf}
        seen_qk[queries[:, None], torch.cat([indices[key] for key in span.keys])[None]] = span.mask_qk == 0
    return seen_qk


def test_golden_mask() -> None:
    # prompt of three tokens, chain of two, forked at its second; the window is two tokens of the path
    layout = layout_of([tree(branch(0, None, 0, 2, Outcome.CORRECT), branch(1, 0, 1, 1, Outcome.CORRECT))])
    everything = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 1],
    ]
    near = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 1],
    ]

    assert block_mask(layout, None).int().tolist() == everything
    assert block_mask(layout, 2).int().tolist() == near


@given(st.lists(trees(right), min_size=1, max_size=3), windows)
def test_both_forms_say_the_same(step: list[Tree], window: int | None) -> None:
    layout = layout_of(step)

    assert torch.equal(span_mask(layout, window), block_mask(layout, window))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 3])
def test_both_forms_attend_alike(window: int | None) -> None:
    chain = [branch(0, None, 0, 5, Outcome.CORRECT), branch(1, 0, 2, 4, Outcome.CORRECT)]
    attention = TreeAttention(layout_of([tree(*chain), tree(*chain, branch(2, None, 0, 3, Outcome.CORRECT))]), CPU)
    length = len(attention.position_s)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, length, 8) for heads in (4, 2, 2))

    attended, _ = tree_attention_forward(
        torch.nn.Module(), query, key, value, None, tree_attention=attention, scaling=0.3, sliding_window=window
    )

    expected = flex_attention(
        query, key, value, block_mask=attention.block_mask(window), scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(attended, expected)
