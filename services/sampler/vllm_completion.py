"""What is asked of vLLM for a completion, and the completion put together from what it returns.

Where stop strings are wanted vLLM sends tokens while they are sampled, else everything at the end.
"""

import math
from typing import Any

from services.common.errors import InvalidRequestError
from services.common.tree import FinishReason, Logprobs, VersionSpan
from services.sampler.engine import Completion, CompletionRequest

ENTROPY_TOP_K = 20
"""Most likely tokens that Shannon entropy is summed over; what lies beyond adds nothing."""

MAX_TOP_TOKENS = ENTROPY_TOP_K + 1
"""Top tokens that a request may ask for: those, and the one whose place the second log-probability takes."""

SAMPLING_LOGPROB = -1
"""Token id under which `vllm_sampler` returns the log-probability under the distribution that was drawn from."""

STOP_CHECK_TOKENS = 4
"""Tokens between two looks for stop strings: a look costs more than sampling a token or two in vain."""


def sampling_params(request: CompletionRequest, two_logprobs: bool) -> Any:
    """vLLM's parameters for a completion.

    Args:
        request: what is wanted.
        two_logprobs: whether the engine's sampler is the one of `vllm_sampler`.

    Raises:
        InvalidRequestError: vLLM refuses them, or its sampler cannot return what is wanted.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    if request.logprobs is Logprobs.RAW_AND_SAMPLING and not two_logprobs:
        raise InvalidRequestError(
            "this engine returns raw log-probabilities only: its model runner has a sampler of its own; ask for raw "
            "ones, or start the sampler with VLLM_USE_V2_MODEL_RUNNER=0 in its environment"
        )
    top_tokens = ENTROPY_TOP_K if request.with_entropies else 0
    if two_logprobs and (top_tokens or request.logprobs is Logprobs.RAW_AND_SAMPLING):
        top_tokens += 1
    try:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            min_tokens=request.min_tokens,
            seed=request.seed,
            stop_token_ids=list(request.stop_token_ids),
            detokenize=False,
            logprobs=top_tokens,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA if request.stop else RequestOutputKind.FINAL_ONLY,
            stream_interval=STOP_CHECK_TOKENS if request.stop else None,
            skip_clone=True,  # nobody else holds them
        )
    except VLLMClientError as error:
        raise InvalidRequestError(str(error)) from error


class GrowingCompletion:
    """A completion while vLLM's outputs for it come in."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._search = request.stop.search() if request.stop else None
        self._match: str | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._sampling_logprobs: list[float] = []
        self._entropies: list[float] = []
        self._last: Any = None

    def add(self, output: Any) -> bool:
        """Take the next output; True if the engine must now be stopped, because a stop string is complete."""
        self._last = output
        if self._match is not None:  # sampled before the engine was stopped
            return False
        sampled = output.outputs[0]
        self._token_ids.extend(sampled.token_ids)
        self._read(sampled.logprobs)
        found = self._search.feed(sampled.token_ids) if self._search else None
        if found is None:
            return False
        self._match = found.string
        for tokens in (self._token_ids, self._logprobs, self._sampling_logprobs, self._entropies):
            del tokens[found.num_tokens :]
        return not output.finished

    @property
    def lost(self) -> bool:
        """Whether a reload ended it: it must be sampled again under the new weights."""
        return self._match is None and self._last.outputs[0].finish_reason == "abort"

    @property
    def tenures(self) -> list[str]:
        """Names of the weights that sampled it, in order."""
        return [span.version for span in self._spans()]

    def completion(self) -> Completion:
        """What was sampled."""
        sampled = self._last.outputs[0]
        stop_reason = self._match
        if stop_reason is None and sampled.stop_reason in self._request.stop_token_ids:
            stop_reason = sampled.stop_reason
        cut = sampled.finish_reason == "length" and self._match is None
        return Completion(
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            entropies=tuple(self._entropies),
            versions=tuple(
                VersionSpan(_policy_version(span.version), min(span.end, len(self._token_ids)) - span.start)
                for span in self._spans()
            ),
            finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
            prefilled_tokens=len(self._request.token_ids) - (self._last.num_cached_tokens or 0),
            sampling_logprobs=tuple(self._sampling_logprobs),
            stop_reason=stop_reason,
        )

    def _spans(self) -> list[Any]:
        """Who sampled the tokens that count."""
        return [s for s in self._last.outputs[0].weight_versions if s.start < len(self._token_ids)]

    def _read(self, flat: Any) -> None:
        """Take the log-probabilities of new tokens; each token's own comes first, then the marked one."""
        starts = flat.start_indices
        self._logprobs.extend(flat.logprobs[start] for start in starts)
        if self._request.logprobs is Logprobs.RAW_AND_SAMPLING:
            self._sampling_logprobs.extend(flat.logprobs[start + 1] for start in starts)
        if self._request.with_entropies:
            for start, end in zip(starts, flat.end_indices, strict=True):
                self._entropies.append(
                    _entropy(dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True)))
                )


def _policy_version(tenure: str) -> int:
    """The version in the name that `VllmEngine` gives to a tenure."""
    return int(tenure.partition(".")[0])


def _entropy(logprobs: dict[int, float]) -> float:
    """Shannon entropy of the listed tokens, in nats."""
    return -sum(math.exp(logprob) * logprob for token, logprob in logprobs.items() if token != SAMPLING_LOGPROB)
