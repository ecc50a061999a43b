"""Which weights the engine serves, and their replacement: proven by a canary, undone where the proof fails."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from safetensors import safe_open

from services.common import metrics, published_weights
from services.common.errors import CheckpointError, PreconditionError
from services.common.published_weights import PublishedWeights
from services.sampler.engine import Engine, InFlight

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A finished load.

    Attributes:
        policy_version: version now serving.
        checksum: checksum of the folder that was read.
        canary_max_abs_logprob_diff: largest |engine - trainer| logprob on its canaries, in nats.
        pause_s: time during which no completion could begin.
    """

    policy_version: int
    checksum: str
    canary_max_abs_logprob_diff: float
    pause_s: float


class ServedWeights:
    """The weights that an engine serves."""

    def __init__(self, engine: Engine, folder: Path, policy_version: int, checksum: str, tolerance_nats: float) -> None:
        """
        Args:
            engine: holds the weights.
            folder: where it read them.
            policy_version: their version.
            checksum: checksum of the folder; empty if it was not published by a trainer.
            tolerance_nats: largest canary difference that passes.
        """
        self._engine = engine
        self._folder = folder
        self._shapes = _shapes(folder)  # now: the trainer may have dropped the folder when it is needed
        self._tolerance = tolerance_nats
        self._loading = asyncio.Lock()
        self._changed = asyncio.Condition()
        self.policy_version = policy_version
        self.checksum = checksum
        self.intact = True
        """False once a load failed and the old weights could not be brought back: nothing is sampled any more."""
        metrics.SAMPLER_POLICY_VERSION.set(policy_version)

    async def wait_for(self, policy_version: int) -> None:
        """Return once the weights are of this version or later."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.policy_version >= policy_version)

    async def load(self, location: Path, policy_version: int, checksum: str, in_flight: InFlight) -> Loaded:
        """Replace the weights by a published folder; on any failure the old ones go on serving.

        Raises:
            CheckpointError: the folder is unfinished, damaged, of another model, not the one that was announced, or
                its canary differs.
            PreconditionError: another load is under way.
        """
        if self._loading.locked():
            raise PreconditionError("another checkpoint is being loaded; try again when it is done")
        async with self._loading:
            try:
                loaded = await self._load(location, policy_version, checksum, in_flight)
            except CheckpointError:
                metrics.RELOADS.labels("failed").inc()
                raise
        metrics.RELOADS.labels("loaded").inc()
        metrics.RELOAD_PAUSE_SECONDS.observe(loaded.pause_s)
        metrics.RELOAD_CANARY.set(loaded.canary_max_abs_logprob_diff)
        metrics.SAMPLER_POLICY_VERSION.set(policy_version)
        log.info("weights loaded", policy_version=policy_version, canary=loaded.canary_max_abs_logprob_diff)
        return loaded

    async def _load(self, location: Path, policy_version: int, checksum: str, in_flight: InFlight) -> Loaded:
        weights = await asyncio.to_thread(self._check, location, policy_version, checksum)
        started = time.perf_counter()
        await self._engine.pause(in_flight)
        try:
            difference = await self._replace(weights)
        finally:
            if self.intact:
                await self._engine.resume()
        pause_s = time.perf_counter() - started
        self._folder = location
        async with self._changed:
            self.policy_version, self.checksum = policy_version, weights.checksum
            self._changed.notify_all()
        return Loaded(policy_version, weights.checksum, difference, pause_s)

    async def _replace(self, weights: PublishedWeights) -> float:
        """Put new weights into the engine and return their canary difference; if that fails, put the old ones back."""
        proven = False
        try:
            await self._engine.replace_weights(weights.folder, weights.policy_version)
            difference = await self.canary_difference(weights)
            proven = difference <= self._tolerance
        finally:
            if not proven:
                self.intact = False
                await self._engine.replace_weights(self._folder, self.policy_version)
                self.intact = True
        if not proven:
            raise CheckpointError(
                f"after loading version {weights.policy_version} the engine's logprobs differ from the trainer's by "
                f"{difference:.2e} on the canary: expected at most {self._tolerance:.0e}; "
                f"version {self.policy_version} serves on"
            )
        return difference

    async def canary_difference(self, weights: PublishedWeights) -> float:
        """Largest |engine - trainer| logprob over the canaries, in nats; 0 if there are none."""
        scores = await asyncio.gather(*(self._engine.score(canary.token_ids) for canary in weights.canaries))
        return max(
            (
                abs(ours - theirs)
                for score, canary in zip(scores, weights.canaries, strict=True)
                for ours, theirs in zip(score, canary.logprobs, strict=True)
            ),
            default=0.0,
        )

    def _check(self, location: Path, policy_version: int, checksum: str) -> PublishedWeights:
        weights = published_weights.read(location)
        if (weights.policy_version, weights.checksum) != (policy_version, checksum):
            raise CheckpointError(
                f"{location} holds version {weights.policy_version} with checksum {weights.checksum[:12]}…: "
                f"expected version {policy_version} with {checksum[:12]}…"
            )
        if _shapes(location) != self._shapes:
            raise CheckpointError(f"the tensors in {location} are not those of the model being served")
        return weights


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes
