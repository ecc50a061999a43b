"""Which weights the engine serves, and their replacement: proven by a canary, undone where the proof fails."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from services.common import metrics, published_weights
from services.common.errors import BroadcastError, CanaryError, CheckpointError, NotJoinedError, UnavailableError
from services.common.published_weights import Canary, PublishedWeights
from services.common.tensor_layout import Layout, difference, of_any_precision
from services.common.weight_broadcast import Broadcast, Rendezvous
from services.sampler.engine import Engine, InFlight
from services.sampler.folder_layout import folder_layout

_RESULTS = ("loaded", "refused", "wrong canary", "interrupted")
"""How a load may end, for the metric."""

Weights: TypeAlias = PublishedWeights | Broadcast
"""Weights, by where they come from."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A finished load.

    Attributes:
        policy_version: version now serving.
        checksum: theirs, as announced.
        canary_max_abs_logprob_diff: largest |engine - trainer| logprob on its canaries, in nats.
        pause_s: time during which no completion could begin.
    """

    policy_version: int
    checksum: str
    canary_max_abs_logprob_diff: float
    pause_s: float


class ServedWeights:
    """The weights that an engine serves.

    Attributes:
        now: the weights now serving; every load makes a new object.
        trusted: False from a wrong canary until a good load. The weights from before serve on meanwhile, but whoever
            can choose should ask another sampler.
        intact: False once a load failed and the old weights could not be brought back: nothing is sampled any more.
    """

    def __init__(
        self,
        engine: Engine,
        weights: PublishedWeights,
        tolerance_nats: float,
        on_trust: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            engine: holds the weights.
            weights: those that it was started with.
            tolerance_nats: largest canary difference that passes.
            on_trust: told when `trusted` changes, before the load's caller hears how it ended.
        """
        self._engine = engine
        self._tolerance = tolerance_nats
        self._on_trust = on_trust
        self._layout = folder_layout(weights.folder)  # now: the trainer may have dropped the folder when it is needed
        self._loading: asyncio.Task[Loaded] | None = None
        self._changed = asyncio.Condition()
        self.now: Weights = weights
        self.trusted = True
        self.intact = True
        metrics.SAMPLER_POLICY_VERSION.set(weights.policy_version)
        for result in _RESULTS:
            metrics.RELOADS.labels(result)  # from 0, so that the first one of a kind counts as a rise

    @property
    def policy_version(self) -> int:
        """Version now serving."""
        return self.now.policy_version

    async def wait_for(self, policy_version: int) -> None:
        """Return once the weights are of this version or later."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.policy_version >= policy_version)

    async def load(self, location: Path, policy_version: int, checksum: str, in_flight: InFlight) -> Loaded:
        """Replace the weights by a published folder; if that fails, the old ones serve on.

        A load that has begun goes on to its end, also if its caller is cancelled.

        Raises:
            CheckpointError: the folder is unfinished, damaged, of another model, not the one that was announced, or
                the engine cannot read it.
            CanaryError: with these weights the engine computes something else than the trainer.
            UnavailableError: another load is under way, the engine died, or the weights are lost.
        """
        return await self._begin(
            partial(asyncio.to_thread, self._check, location, policy_version, checksum),
            partial(self._engine.replace_weights, location, policy_version),
            in_flight,
        )

    async def receive(self, broadcast: Broadcast, rendezvous: Rendezvous, in_flight: InFlight) -> Loaded:
        """Replace the weights by those of a broadcast; if that fails, the old ones serve on if they are in a folder.

        A load that has begun goes on to its end, also if its caller is cancelled.

        Raises:
            CheckpointError: they are of another model.
            CanaryError: with these weights the engine computes something else than the trainer.
            UnavailableError: the group did not form, another load is under way, the engine died, or the weights are
                lost.
            BroadcastError: they did not arrive whole.
        """

        async def check() -> tuple[Weights, Layout]:
            self._compare(broadcast.layout, "announced")
            return broadcast, broadcast.layout

        return await self._begin(
            check,
            partial(self._engine.receive_weights, rendezvous, broadcast.layout, broadcast.policy_version),
            in_flight,
        )

    async def _begin(
        self,
        check: Callable[[], Awaitable[tuple[Weights, Layout]]],
        put: Callable[[], Awaitable[None]],
        in_flight: InFlight,
    ) -> Loaded:
        if self._loading is not None and not self._loading.done():
            raise UnavailableError("another checkpoint is being loaded; try again when it is done")
        self._loading = asyncio.create_task(self._load(check, put, in_flight))
        return await asyncio.shield(self._loading)

    async def _load(
        self,
        check: Callable[[], Awaitable[tuple[Weights, Layout]]],
        put: Callable[[], Awaitable[None]],
        in_flight: InFlight,
    ) -> Loaded:
        result = "interrupted"
        try:
            weights, layout = await check()
            loaded = await self._replace(weights, put, in_flight)
            result = "loaded"
        except CanaryError:
            result = "wrong canary"
            raise
        except BroadcastError:
            raise  # interrupted
        except CheckpointError:
            result = "refused"
            raise
        finally:
            metrics.RELOADS.labels(result).inc()
        self._layout = layout
        await self._trust(True)
        async with self._changed:
            self._changed.notify_all()
        metrics.RELOAD_PAUSE_SECONDS.observe(loaded.pause_s)
        metrics.RELOAD_CANARY.set(loaded.canary_max_abs_logprob_diff)
        metrics.SAMPLER_POLICY_VERSION.set(loaded.policy_version)
        log.info("weights loaded", policy_version=loaded.policy_version, canary=loaded.canary_max_abs_logprob_diff)
        return loaded

    async def _replace(self, weights: Weights, put: Callable[[], Awaitable[None]], in_flight: InFlight) -> Loaded:
        """Put weights into the engine and prove them; if that fails, put the old ones back and prove those."""
        before = await self._provable(self.now, weights.canaries)
        started = time.perf_counter()
        await self._engine.pause(in_flight)
        proven = False
        try:
            await put()
            largest = await self.prove(weights)
            self.now, proven = weights, True
        except NotJoinedError:
            proven = True  # the old weights are still there
            raise
        except CheckpointError as failure:
            if isinstance(failure, CanaryError):
                await self._trust(False)
            await self._bring_back(before, failure)
            proven = True
            raise
        finally:
            if proven:
                await self._engine.resume()
            else:
                self.intact = False
        return Loaded(weights.policy_version, weights.checksum, largest, time.perf_counter() - started)

    async def _bring_back(self, before: Weights, failure: CheckpointError) -> None:
        # Completions that were kept may have gone on under the refused weights: they must begin anew.
        await self._engine.pause(InFlight.ABORT)
        try:
            if isinstance(before, Broadcast):
                raise CheckpointError(f"version {before.policy_version} was broadcast and is in no folder")
            await self._engine.replace_weights(before.folder, before.policy_version)
            await self.prove(before)
        except CheckpointError as second:
            # after a wrong canary the trainer must stop; else it may wait for this sampler to start anew
            kind = CanaryError if isinstance(failure, CanaryError) else UnavailableError
            raise kind(f"{failure}; the weights before are lost too: {second}") from second
        log.warning("old weights brought back", policy_version=before.policy_version, reason=str(failure))

    async def prove(self, weights: Weights) -> float:
        """Largest |engine - trainer| logprob over all canaries and replicas, in nats.

        Args:
            weights: what the engine should have.

        Raises:
            CanaryError: it exceeds the tolerance, or is not a number.
        """
        told = [(canary, replica) for canary in weights.canaries for replica in range(self._engine.replicas)]
        scores = await asyncio.gather(*(self._engine.score(canary.token_ids, replica) for canary, replica in told))
        differences = [
            abs(ours - theirs)
            for score, (canary, _) in zip(scores, told, strict=True)
            for ours, theirs in zip(score, canary.logprobs, strict=False)  # the engine scores what the model holds
        ]
        largest = math.nan if any(map(math.isnan, differences)) else max(differences, default=math.nan)
        if not largest <= self._tolerance:  # so that NaN is refused too
            raise CanaryError(
                f"after loading version {weights.policy_version} the engine's logprobs differ from the trainer's by "
                f"{largest:.2e} nats on the canary: expected at most {self._tolerance:.0e}"
            )
        return largest

    async def _provable(self, weights: Weights, canaries: Sequence[Canary]) -> Weights:
        """The weights now serving with canaries, of the engine's own making where no trainer gave any."""
        if weights.canaries:
            return weights
        scores = await asyncio.gather(*(self._engine.score(canary.token_ids) for canary in canaries))
        own = [Canary(c.token_ids[: len(score) + 1], score) for c, score in zip(canaries, scores, strict=True)]
        return replace(weights, canaries=tuple(own))

    async def _trust(self, trusted: bool) -> None:
        if trusted is not self.trusted:
            self.trusted = trusted
            if self._on_trust is not None:
                await self._on_trust(trusted)

    def _check(self, location: Path, policy_version: int, checksum: str) -> tuple[PublishedWeights, Layout]:
        """Read a folder's manifest and layout, and refuse what could not be loaded. Blocks."""
        weights = published_weights.read(location)
        if (weights.policy_version, weights.checksum) != (policy_version, checksum):
            raise CheckpointError(
                f"{location} holds version {weights.policy_version} with checksum {weights.checksum[:12]}…: "
                f"expected version {policy_version} with {checksum[:12]}…"
            )
        layout = folder_layout(location)
        self._compare(layout, f"in {location}")
        return weights, layout

    def _compare(self, layout: Layout, where: str) -> None:
        expected, found = self._layout, layout
        if not self.now.checksum:  # the model that a run starts from may be of another precision than its trainer
            expected, found = of_any_precision(expected), of_any_precision(found)
        if expected and (complaint := difference(expected, found)):  # it is empty for a model that is not safetensors
            raise CheckpointError(f"the tensors {where} are not those of the model being served: {complaint}")
