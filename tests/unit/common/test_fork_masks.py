"""Which tokens may be forked."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.fork_masks import answer_position, forkable_positions
from services.common.tree import Branch, SearchParameters, SpecialTokens, path_tokens
from tests.builders import branch

PIECES = ("so ", "\\box", "ed{", "4", "}", "####", " the answer", " is", "", "\u00e9")
SPECIAL = 8  # decodes to nothing


class Pieces:
    """Token i is piece i."""

    special_token_ids = frozenset({SPECIAL})

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(PIECES[token] for token in token_ids)


class Bytes:
    """Token i is byte i of UTF-8 text; a character that is cut short decodes to a replacement character."""

    special_token_ids: frozenset[int] = frozenset()

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")


def holding(branch_id: int, parent_id: int | None, fork_index: int, *tokens: int) -> Branch:
    return replace(branch(branch_id, parent_id, fork_index, len(tokens)), token_ids=tokens)


def forkable(branches: list[Branch], branch_id: int, *markers: str) -> list[int]:
    return forkable_positions(branches, branch_id, SearchParameters(1, answer_markers=markers), Pieces())


def test_the_first_token_of_a_chain_and_of_a_branch_is_never_forkable() -> None:
    branches = [holding(0, None, 0, 0, 3, 3), holding(1, 0, 1, 0, 3, 3)]
    assert forkable(branches, 0) == [1, 2]
    assert forkable(branches, 1) == [2, 3]


def test_special_tokens_are_forkable_only_where_the_search_says_so() -> None:
    chain = [holding(0, None, 0, 0, SPECIAL, 3, SPECIAL)]
    assert forkable(chain, 0) == [2]
    search = SearchParameters(1, special_tokens=SpecialTokens.FORKABLE)
    assert forkable_positions(chain, 0, search, Pieces()) == [1, 2, 3]


def test_a_marker_cut_by_tokens_masks_from_the_token_that_completes_it() -> None:
    chain = [holding(0, None, 0, 0, 3, 1, 2, 3, 4)]  # "so 4\boxed{4}", with the marker in tokens 2 and 3
    assert forkable(chain, 0, "\\boxed{") == [1, 2]
    assert forkable(chain, 0, "\\boxed{4") == [1, 2, 3]


def test_a_marker_that_a_branch_completes_masks_the_rest_of_the_branch() -> None:
    # the chain goes "so \box####...", the branch "so \boxed{4}": its marker begins in the chain
    branches = [holding(0, None, 0, 0, 1, 5, 3, 3), holding(1, 0, 2, 2, 3, 4)]
    assert forkable(branches, 1, "\\boxed{") == []
    assert forkable(branches, 0, "\\boxed{") == [1, 2, 3, 4]


def test_a_branch_that_keeps_a_whole_marker_has_nothing_to_fork() -> None:
    branches = [holding(0, None, 0, 0, 5, 3, 3), holding(1, 0, 2, 3, 3, 3)]
    assert forkable(branches, 1, "####") == []


def test_of_several_markers_the_first_in_the_response_counts() -> None:
    chain = [holding(0, None, 0, 0, 6, 7, 3, 5, 3)]  # "so  the answer is4####4"
    assert forkable(chain, 0, "####", "the answer is") == [1]
    assert forkable(chain, 0, "####") == [1, 2, 3]
    assert forkable(chain, 0, "The answer is") == [1, 2, 3, 4, 5]  # exact text, capitals included


def test_special_tokens_within_a_marker_do_not_hide_it() -> None:
    assert answer_position((0, 1, SPECIAL, 2, 3), ["\\boxed{"], Pieces().decode) == 3


def test_without_markers_nothing_is_decoded() -> None:
    def refuse(token_ids: Sequence[int]) -> str:
        raise AssertionError("decoded")

    assert answer_position((1, 2, 3), (), refuse) == 3


@given(
    st.lists(st.integers(0, 9), max_size=30), st.lists(st.sampled_from(["####", "\\boxed{", "is", "44"]), min_size=1)
)
def test_the_answer_begins_at_the_first_prefix_that_holds_a_marker(tokens: list[int], markers: list[str]) -> None:
    decode = Pieces().decode
    with_marker = [i for i in range(len(tokens)) if any(m in decode(tokens[: i + 1]) for m in markers)]
    assert answer_position(tokens, markers, decode) == min(with_marker, default=len(tokens))


@given(
    st.text(max_size=20),
    st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1),
    st.text(max_size=20),
)
def test_a_marker_is_found_in_a_tokenizer_of_bytes(before: str, marker: str, after: str) -> None:
    text = before + marker + after
    complete = len((text[: text.index(marker)] + marker).encode())
    assert answer_position(tuple(text.encode()), [marker], Bytes().decode) == complete - 1


@pytest.mark.parametrize("special_tokens", SpecialTokens)
@given(st.data())
def test_exactly_what_no_rule_forbids_is_forkable(special_tokens: SpecialTokens, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=20))
    forked_at = data.draw(st.integers(1, len(tokens) - 1))
    branches = [holding(0, None, 0, *tokens), holding(1, 0, forked_at, *data.draw(st.permutations(tokens)))]
    search = SearchParameters(1, special_tokens=special_tokens, answer_markers=("####", "is"))
    for each in branches:
        response = path_tokens(branches, each.id)
        texts = [Pieces().decode(response[: position + 1]) for position in range(each.end)]
        expected = [
            position
            for position in range(each.fork_index + 1, each.end)
            if (special_tokens is SpecialTokens.FORKABLE or response[position] != SPECIAL)
            and "####" not in texts[position]
            and "is" not in texts[position]
        ]
        assert forkable_positions(branches, each.id, search, Pieces()) == expected
