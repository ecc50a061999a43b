"""The tokens of a run's tokenizer: their texts and classes, and which are special."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.common.token_class import TokenClass, token_class

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenTexts:
    """Reads tokens as the sampler read them, which had the same tokenizer."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._classes: dict[int, TokenClass] = {}
        added = tokenizer.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def text(self, token_id: int) -> str:
        """Text of one token, special tokens included."""
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False))

    def token_class(self, token_id: int) -> TokenClass:
        """What kind of text a token is; special tokens are none."""
        if token_id not in self._classes:
            self._classes[token_id] = token_class(self.decode([token_id]))
        return self._classes[token_id]
