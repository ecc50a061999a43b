"""The index of cached blocks by the tokens that they begin with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sampler.block_index import BlockIndex

CONTENT = {1: "one", 2: "two", 3: "three"}


def an_index(content: dict[int, str] | None = None) -> BlockIndex:
    return BlockIndex((CONTENT if content is None else content).get)


def test_the_block_with_most_first_tokens_in_common_is_found() -> None:
    index = an_index()
    index.add(1, "chain", (5, 6, 7, 8))
    index.add(2, "chain", (5, 6, 9, 9))
    index.add(3, "chain", (6, 6, 7, 8))
    assert index.longest_match("chain", (5, 6, 9, 1)) == (2, 3)


def test_blocks_that_follow_other_tokens_are_not_found() -> None:
    index = an_index()
    index.add(1, "chain", (5, 6))
    assert index.longest_match("other chain", (5, 6)) is None


def test_a_block_that_begins_with_another_token_is_not_found() -> None:
    index = an_index()
    index.add(1, "chain", (5, 6))
    assert index.longest_match("chain", (6, 6)) is None


def test_a_block_given_to_other_tokens_is_passed_over() -> None:
    content = dict(CONTENT)
    index = an_index(content)
    index.add(1, "chain", (5, 6, 7))
    index.add(2, "chain", (5, 8, 8))
    content[1] = "something else"
    assert index.longest_match("chain", (5, 6, 7)) == (2, 1)
    assert len(index) == 1


def test_a_block_entered_again_with_new_content_is_found_by_that_alone() -> None:
    content = dict(CONTENT)
    index = an_index(content)
    assert index.add(1, "chain", (5, 6))
    assert not index.add(1, "chain", (5, 6))
    content[1] = "something else"
    assert index.add(1, "other chain", (7, 7))
    assert index.longest_match("chain", (5, 6)) is None
    assert index.longest_match("other chain", (7,)) == (1, 1)


def test_the_same_tokens_in_the_block_once_more_are_not_there_yet() -> None:
    content: dict[int, object] = {1: ["one"]}
    index = BlockIndex(content.get)
    index.add(1, "chain", (5, 6))
    content[1] = ["one"]
    assert index.longest_match("chain", (5, 6)) is None


def test_a_block_without_readable_content_is_refused() -> None:
    with pytest.raises(ValueError, match="block 9 has no content"):
        an_index().add(9, "chain", (5,))


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)
steps = st.lists(
    st.tuples(st.sampled_from(("add", "evict")), st.integers(0, 5), st.sampled_from("ab"), tokens), max_size=30
)


@given(steps, st.sampled_from("ab"), tokens)
def test_matches_are_those_of_a_search_through_all_blocks(
    steps: list[tuple[str, int, str, tuple[int, ...]]], parent: str, wanted: tuple[int, ...]
) -> None:
    content: dict[int, int] = {}
    held: dict[int, tuple[str, tuple[int, ...]]] = {}
    index = BlockIndex(content.get)
    for number, (what, block, parent_of_block, of_block) in enumerate(steps):
        content[block] = number
        held.pop(block, None)
        if what == "add":
            index.add(block, parent_of_block, of_block)
            held[block] = parent_of_block, of_block
    first = [wanted[:length] for length in range(len(wanted) + 1)]
    best = max(n for n, f in enumerate(first) if n == 0 or any(h[:n] == f for p, h in held.values() if p == parent))
    match = index.longest_match(parent, wanted)
    assert (match[1] if match else 0) == best
    if match:
        assert held[match[0]][0] == parent
        assert held[match[0]][1][:best] == wanted[:best]
