"""Prompts to tokens, and tokens to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from services.common import metrics
from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.fork_masks import ResponseTokenizer
from services.common.token_class import TokenClass, token_class
from services.sampler.settings import SamplerSettings


class PromptCodec(ResponseTokenizer, Protocol):
    """What the tree search needs of a tokenizer."""

    def encode(self, prompt: str, max_response_tokens: int) -> tuple[int, ...]:
        """Token ids of a prompt, as the policy sees it; shortened to leave room for a response where that is wanted.

        Raises:
            InvalidRequestError: the prompt is empty, or cannot be shortened enough.
        """

    def token_class(self, token_id: int) -> TokenClass:
        """What kind of text a token is."""


class TokenizerCodec:
    """The tokenizer of a Hugging Face folder."""

    def __init__(self, settings: SamplerSettings) -> None:
        """
        Args:
            settings: where the tokenizer is, how a prompt becomes text, and what becomes of one that is too long.

        Raises:
            ConfigurationError: no tokenizer there, or no chat template that is asked for, or it fails.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(settings.model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no tokenizer in model folder {settings.model}: {error}") from error
        if settings.prompt_overflow != "refuse" and not self._tokenizer.is_fast:
            raise ConfigurationError(
                f"the tokenizer in {settings.model} does not say which text each token is of, so it cannot shorten "
                "prompts; set prompt_overflow to refuse"
            )
        self._settings = settings
        self._system = [{"role": "system", "content": settings.system_prompt}] if settings.system_prompt else []
        self._template = None if settings.chat_template is None else _read_template(settings.chat_template)
        self.special_token_ids = frozenset(self._tokenizer.all_special_ids)
        self._token_classes: dict[int, TokenClass] = {}
        if settings.prompt_format == "chat":
            self._try_template()

    def encode(self, prompt: str, max_response_tokens: int) -> tuple[int, ...]:
        """See `PromptCodec.encode`."""
        token_ids = self._render(prompt)
        if not token_ids:
            raise InvalidRequestError("the prompt is empty: got no tokens, expected at least one")
        room = self._settings.max_model_tokens - max_response_tokens
        if len(token_ids) > room and self._settings.prompt_overflow != "refuse":  # the engine refuses
            token_ids = self._shorten(prompt, len(token_ids), room)
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

    def _render(self, prompt: str) -> list[int]:
        """Token ids of a prompt with whatever its format puts around it."""
        if self._settings.prompt_format == "plain":
            plain: list[int] = self._tokenizer.encode(prompt)
            return plain
        turns = [*self._system, {"role": "user", "content": prompt}]
        chat: list[int] = self._tokenizer.apply_chat_template(
            turns,
            chat_template=self._template,
            add_generation_prompt=True,
            return_dict=True,
            **self._settings.chat_template_arguments,
        )["input_ids"]
        return chat

    def _shorten(self, prompt: str, num_tokens: int, room: int) -> list[int]:
        """Cut the prompt's own text between two of its tokens, so that it fits with what its format puts around it.

        Text may be tokenized otherwise at the cut, so that a few tokens more must go.
        """
        spans = self._tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        keep_start = self._settings.prompt_overflow == "keep_start"
        kept = len(spans) - (num_tokens - room)
        while kept > 0:
            token_ids = self._render(prompt[: spans[kept - 1][1]] if keep_start else prompt[spans[-kept][0] :])
            if 0 < len(token_ids) <= room:
                metrics.SHORTENED_PROMPTS.inc()
                return token_ids
            kept -= max(1, len(token_ids) - room)
        raise InvalidRequestError(
            f"the prompt cannot be shortened to {room} tokens, which the response leaves of the model's "
            f"{self._settings.max_model_tokens}: lower max_tokens, or raise max_model_tokens"
        )

    def _try_template(self) -> None:
        if self._template is None and self._tokenizer.chat_template is None:
            raise ConfigurationError(
                f"the tokenizer in {self._settings.model} has no chat template; set prompt_format to plain, "
                "or chat_template to a file"
            )
        try:
            self._render("1+1=")
        except (TemplateError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the chat template fails: {error}") from error


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read chat_template {path}: {error.strerror}") from error
