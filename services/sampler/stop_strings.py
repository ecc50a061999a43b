"""Stop strings, found in the text of a response while it grows, however tokens and forks cut them.

The text is that of the whole response: a stop string may begin in the prefix that a fork keeps. It counts only if a new
token completes it, so a prefix that already holds one does not end every response forked from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

UNFINISHED = "\ufffd"
"""What tokenizers decode the bytes of a character to before its last byte is there."""

MARGIN = 8
"""Characters at the start of a window that may differ from the response's: its first token may begin within a
character, and some tokenizers drop a leading space."""


class StopMatch(NamedTuple):
    """A stop string that was found.

    Attributes:
        string: which.
        num_tokens: new tokens up to the one that completes it, which stays whole.
    """

    string: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StopStrings:
    """The stop strings of one completion.

    Attributes:
        strings: what to look for; at least one, none empty.
        kept_token_ids: response tokens before the first new one.
        min_tokens: new tokens that end no response.
        decode: text of response tokens.
    """

    strings: tuple[str, ...]
    kept_token_ids: tuple[int, ...]
    min_tokens: int
    decode: Callable[[Sequence[int]], str]

    def search(self) -> "StopSearch":
        """Begin to look for them."""
        return StopSearch(self)


class StopSearch:
    """Looks for stop strings in the tokens of one completion.

    Only a window of the last tokens is decoded: enough for the longest stop string.
    """

    def __init__(self, stop: StopStrings) -> None:
        self._stop = stop
        self._needed = max(len(string) for string in stop.strings) + MARGIN
        self._num_tokens = 0
        self._window = list(stop.kept_token_ids)
        self._text = self._text_of(self._window)
        self._shorten()

    def feed(self, token_ids: Sequence[int]) -> StopMatch | None:
        """Take the next new tokens; the first stop string that is complete with one of them, or None."""
        text = self._text_of([*self._window, *token_ids])
        string = self._completed_in(text)
        if string is not None and len(token_ids) > 1:  # one of them completes it
            return next((match for token_id in token_ids if (match := self.feed([token_id]))), None)
        self._window.extend(token_ids)
        self._num_tokens += len(token_ids)
        self._text = text
        self._shorten()
        if string is None or self._num_tokens <= self._stop.min_tokens:
            return None
        return StopMatch(string, self._num_tokens)

    def _text_of(self, token_ids: Sequence[int]) -> str:
        return self._stop.decode(token_ids).rstrip(UNFINISHED)

    def _completed_in(self, text: str) -> str | None:
        """The first stop string that ends in what a text adds to the window's."""
        found = [
            (start + len(string), string)
            for string in self._stop.strings
            if (start := text.find(string, max(0, len(self._text) - len(string) + 1))) >= 0
        ]
        return min(found, key=lambda match: match[0])[1] if found else None

    def _shorten(self) -> None:
        """Drop the first half of the window while the other half is enough."""
        while len(self._text) >= 2 * self._needed:
            half = self._window[len(self._window) // 2 :]
            text = self._text_of(half)
            if len(text) < self._needed:
                return
            self._window, self._text = half, text
