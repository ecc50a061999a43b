"""Stop strings in the text of a growing response."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sampler.stop_strings import StopMatch, StopStrings

PIECES = ("", "a", "b", "ab", "ba", "aba", "c", "aab")
"""Texts of tokens 0 to 7; the first is a special token."""


def decode(token_ids: Sequence[int]) -> str:
    return "".join(PIECES[token_id] for token_id in token_ids)


def decode_bytes(token_ids: Sequence[int]) -> str:
    return bytes(token_ids).decode(errors="replace")


def feed_all(stop: StopStrings, runs: Sequence[Sequence[int]]) -> StopMatch | None:
    search = stop.search()
    return next((match for run in runs if (match := search.feed(run))), None)


def first_match(stop: StopStrings, new: Sequence[int]) -> StopMatch | None:
    """The definition, with the whole path decoded at every token."""
    for count in range(stop.min_tokens + 1, len(new) + 1):
        before = stop.decode([*stop.kept_token_ids, *new[: count - 1]])
        text = stop.decode([*stop.kept_token_ids, *new[:count]])
        ends = [
            (end, order, string)
            for order, string in enumerate(stop.strings)
            for end in range(len(before) + 1, len(text) + 1)
            if text[:end].endswith(string)
        ]
        if ends:
            return StopMatch(min(ends)[2], count)
    return None


tokens = st.lists(st.integers(0, len(PIECES) - 1), max_size=60)


@given(
    strings=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=3),
    kept=tokens,
    runs=st.lists(tokens, max_size=8),
    min_tokens=st.integers(0, 20),
)
def test_the_match_is_that_of_the_whole_path_however_tokens_arrive(
    strings: list[str], kept: list[int], runs: list[list[int]], min_tokens: int
) -> None:
    stop = StopStrings(tuple(strings), tuple(kept), min_tokens, decode)
    assert feed_all(stop, runs) == first_match(stop, [token for run in runs for token in run])


@pytest.mark.parametrize(
    ("kept", "new", "expected"),
    [
        ("", "a stop b", StopMatch("stop", 6)),
        ("a st", "op b", StopMatch("stop", 2)),
        ("a stop", " and stop", StopMatch("stop", 9)),
        ("a stop", " and on", None),
    ],
    ids=["in the new tokens", "over the fork", "in the prefix and again after it", "in the prefix only"],
)
def test_only_new_tokens_complete_a_stop_string(kept: str, new: str, expected: StopMatch | None) -> None:
    stop = StopStrings(("stop",), tuple(kept.encode()), 0, decode_bytes)
    assert feed_all(stop, [[byte] for byte in new.encode()]) == expected


def test_before_min_tokens_nothing_stops_and_later_text_does() -> None:
    stop = StopStrings(("ab",), (), 4, decode_bytes)
    assert feed_all(stop, [b"abab", b"ab"]) == StopMatch("ab", 6)


def test_a_stop_string_is_found_where_the_fork_cuts_a_character() -> None:
    before, after = "3 →".encode()[:3], "3 → 4".encode()[3:]
    stop = StopStrings(("→ 4",), tuple(before), 0, decode_bytes)
    assert feed_all(stop, [[byte] for byte in after]) == StopMatch("→ 4", len(after))


def test_the_string_that_ends_first_wins() -> None:
    stop = StopStrings(("bc", "b"), (), 0, lambda token_ids: "abc" * len(token_ids))
    assert feed_all(stop, [[1]]) == StopMatch("b", 1)
