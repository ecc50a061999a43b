"""Prompts to tokens, and tokens to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.fork_masks import ResponseTokenizer
from services.common.token_class import TokenClass, token_class

PromptFormat = Literal["plain", "chat"]
"""`plain` encodes the prompt as it is; `chat` makes it the user's turn of the tokenizer's chat template."""


class PromptCodec(ResponseTokenizer, Protocol):
    """What the tree search needs of a tokenizer."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt, as the policy sees it.

        Raises:
            InvalidRequestError: the prompt is empty.
        """

    def token_class(self, token_id: int) -> TokenClass:
        """What kind of text a token is."""


class TokenizerCodec:
    """The tokenizer of a Hugging Face folder."""

    def __init__(self, model: Path, prompt_format: PromptFormat, system_prompt: str = "") -> None:
        """
        Args:
            model: folder with the tokenizer's files.
            prompt_format: how a prompt becomes text.
            system_prompt: system turn of the chat template; empty for none.

        Raises:
            ConfigurationError: no tokenizer there, or it lacks the chat template that is asked for.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no tokenizer in model folder {model}: {error}") from error
        if prompt_format == "chat" and self._tokenizer.chat_template is None:
            raise ConfigurationError(f"the tokenizer in {model} has no chat template; set prompt_format to plain")
        self._format = prompt_format
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.special_token_ids = frozenset(self._tokenizer.all_special_ids)
        self._token_classes: dict[int, TokenClass] = {}

    def encode(self, prompt: str) -> tuple[int, ...]:
        """See `PromptCodec.encode`."""
        if self._format == "chat":
            turns = [*self._system, {"role": "user", "content": prompt}]
            encoded = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
            token_ids: list[int] = encoded["input_ids"]
        else:
            token_ids = self._tokenizer.encode(prompt)
        if not token_ids:
            raise InvalidRequestError("the prompt is empty: got no tokens, expected at least one")
        return tuple(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `ResponseTokenizer.decode`."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token_class(self, token_id: int) -> TokenClass:
        """See `PromptCodec.token_class`; a token is decoded the first time only."""
        if token_id not in self._token_classes:
            self._token_classes[token_id] = token_class(self.decode([token_id]))
        return self._token_classes[token_id]
