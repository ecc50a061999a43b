"""A scripted engine at the `Engine` seam: draws from a known distribution and records what is asked of it."""

import asyncio
import math
import random
from collections.abc import Sequence
from pathlib import Path

from services.common.errors import CheckpointError, TreerlError
from services.common.tensor_layout import Layout
from services.common.token_class import TokenClass
from services.common.tree import FinishReason, Logprobs, VersionSpan
from services.common.weight_broadcast import Rendezvous
from services.sampler.cache_room import CacheRoom
from services.sampler.engine import Completion, CompletionRequest, InFlight

END = 0
"""Token that ends a response."""


class ScriptedEngine:
    """Draws uniformly from ten tokens, of which 0 ends a response; surprisal falls on tokens by their value."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.replicas = 1
        self.cache = CacheRoom(2**20)
        self.requests: list[CompletionRequest] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.policy_version = 0
        self.loaded: list[Path] = []
        self.unreadable: set[Path] = set()
        self.canary_errors: dict[int, float] = {}
        self.broadcast_failure: TreerlError | None = None
        self.pauses: list[InFlight] = []
        self.paused = False
        self.pausing = asyncio.Event()
        self.pausing.set()
        self._latency_s = latency_s

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw tokens until the end token, a stop token, a stop string or the budget."""
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self._latency_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        draw = random.Random(request.seed)
        stop = request.stop.search() if request.stop else None
        tokens: list[int] = []
        reason, stop_reason = FinishReason.LENGTH, None
        while len(tokens) < request.max_tokens and reason is FinishReason.LENGTH:
            may_end = len(tokens) >= request.min_tokens
            ends = () if may_end else {END, *request.stop_token_ids}
            tokens.append(draw.choice([token for token in range(10) if token not in ends]))
            match = stop.feed(tokens[-1:]) if stop else None
            if match or tokens[-1] == END or tokens[-1] in request.stop_token_ids:
                reason = FinishReason.STOP
                stop_reason = match.string if match else tokens[-1] if tokens[-1] != END else None
        return Completion(
            token_ids=tuple(tokens),
            logprobs=tuple(-0.1 * (token + 1) for token in tokens),
            entropies=tuple(math.log(token + 1) for token in tokens) if request.with_entropies else (),
            versions=(VersionSpan(self.policy_version, len(tokens)),),
            finish_reason=reason,
            prefilled_tokens=1,
            sampling_logprobs=(-math.log(10),) * len(tokens) if request.logprobs is Logprobs.RAW_AND_SAMPLING else (),
            stop_reason=stop_reason,
        )

    async def score(self, token_ids: tuple[int, ...], replica: int = 0) -> tuple[float, ...]:
        """A logprob of -1 for each token, off by the version's canary error; the last replica alone errs."""
        if replica < self.replicas - 1:
            return (-1.0,) * (len(token_ids) - 1)
        return (-1.0 + self.canary_errors.get(self.policy_version, 0.0),) * (len(token_ids) - 1)

    async def pause(self, in_flight: InFlight) -> None:
        """Wait until `pausing` is set."""
        self.pauses.append(in_flight)
        self.paused = True
        await self.pausing.wait()

    async def replace_weights(self, folder: Path, policy_version: int) -> None:
        """Remember the folder, unless it is unreadable."""
        self.loaded.append(folder)
        if folder in self.unreadable:
            raise CheckpointError(f"cannot read {folder}")
        self.policy_version = policy_version

    async def receive_weights(self, rendezvous: Rendezvous, layout: Layout, policy_version: int) -> None:
        """Have them at once, unless something is to go wrong."""
        if self.broadcast_failure is not None:
            raise self.broadcast_failure
        self.policy_version = policy_version

    async def resume(self) -> None:
        """Note it."""
        self.paused = False


class DigitCodec:
    """One token a digit."""

    special_token_ids = frozenset({END})

    def encode(self, prompt: str, max_response_tokens: int) -> tuple[int, ...]:
        """Digits of the prompt, or a fixed prompt where it has none."""
        return tuple(int(character) for character in prompt if character.isdecimal()) or (7,)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The digits, end token left out."""
        return "".join(str(token) for token in token_ids if token != END)

    def token_class(self, token_id: int) -> TokenClass:
        """Digits are digits; the end token is no text."""
        return TokenClass.OTHER if token_id == END else TokenClass.DIGIT
