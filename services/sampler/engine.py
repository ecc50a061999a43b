"""What the tree search needs of an inference engine: the seam at which tests put a scripted one."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from services.common.tensor_layout import Layout
from services.common.tree import FinishReason, Logprobs, VersionSpan
from services.common.weight_broadcast import Rendezvous
from services.sampler.cache_room import CacheRoom
from services.sampler.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Asks for one continuation.

    Attributes:
        token_ids: prompt and kept response prefix.
        temperature: softmax temperature; 0 is greedy.
        top_p: nucleus mass in (0, 1].
        max_tokens: bound on the new tokens.
        seed: seed of this continuation's draws; None draws one.
        stop: strings that end it and stay part of it; None if there are none.
        stop_token_ids: tokens that end it and stay part of it, beside the end tokens of the model.
        min_tokens: new tokens before which nothing but `max_tokens` ends it.
        logprobs: which log-probabilities are wanted.
        adapter: LoRA adapter to draw from; empty for the policy itself.
        with_entropies: whether each token's Shannon entropy is wanted.
        affinity: requests of one affinity go to one replica, where the prefix that they share is cached.
        priority: of those that wait, the request with the lowest is begun first, and the oldest among equals.
    """

    token_ids: tuple[int, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    stop: StopStrings | None = None
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: Logprobs = Logprobs.RAW
    adapter: str = ""
    with_entropies: bool = False
    affinity: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation.

    Attributes:
        token_ids: the new tokens, end token included; at least one.
        logprobs: log pi(token | prefix) of each at temperature 1, in nats.
        entropies: Shannon entropy at each, in nats; empty unless asked for.
        versions: which weights sampled which tokens.
        finish_reason: why it ended.
        prefilled_tokens: tokens of the request that the prefix cache did not hold.
        sampling_logprobs: log-probability of each token under the distribution that it was drawn from, in nats; empty
            unless asked for.
        stop_reason: the stop string or stop token id that ended it; None where neither did.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    prefilled_tokens: int
    sampling_logprobs: tuple[float, ...] = ()
    stop_reason: str | int | None = None


class InFlight(Enum):
    """What becomes of requests in flight while weights are replaced; the values are the protobuf numbers."""

    WAIT = 1
    KEEP = 2
    ABORT = 3


class Engine(Protocol):
    """An inference engine that batches whatever runs at once.

    Attributes:
        replicas: copies of the model that it holds.
        cache: room in its prefix cache.
    """

    replicas: int
    cache: CacheRoom

    async def complete(self, request: CompletionRequest) -> Completion:
        """Sample one continuation; cancelling the task frees the engine at once.

        Raises:
            InvalidRequestError: the request exceeds what the model can hold, names an unknown adapter, or asks for
                what the engine cannot do.
        """

    async def score(self, token_ids: tuple[int, ...], replica: int = 0) -> tuple[float, ...]:
        """Logprob of every token but the first under a replica's current weights, at temperature 1, in nats.

        Works after `replace_weights`, before `resume`. A sequence that the model cannot hold is cut at its end.
        """

    async def pause(self, in_flight: InFlight) -> None:
        """Begin no completion until `resume`, and deal with those under way."""

    async def replace_weights(self, folder: Path, policy_version: int) -> None:
        """Read the weights of a Hugging Face folder into the running model; call between `pause` and `resume`.

        Completions that `pause` kept go on under the new weights as soon as this returns. If the weights are replaced
        once more before `resume`, these were refused: what was sampled under them is thrown away and sampled again.

        Raises:
            CheckpointError: the folder cannot be read; the model then holds neither these weights nor the old ones.
        """

    async def receive_weights(self, rendezvous: Rendezvous, layout: Layout, policy_version: int) -> None:
        """Receive the weights of a broadcast into the running model; call and effect as of `replace_weights`.

        Raises:
            NotJoinedError: the group did not form; the model holds what it held.
            BroadcastError: they did not arrive whole, or do not fit; the model holds neither these weights nor the old
                ones.
            UnavailableError: the patience is over, and the engine still hangs: it is lost.
        """

    async def resume(self) -> None:
        """Accept the weights and begin completions again."""
