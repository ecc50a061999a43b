"""The parts of a training run put together, started afresh or taken up again from a checkpoint."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from services.common import metrics
from services.common.checkpoint import MODEL, Checkpoint, Checkpoints
from services.common.problem import Problem
from services.common.streams import Streams, connect
from services.trainer.dataset import Dataset
from services.trainer.policy import Policy
from services.trainer.problem_selection import load_problems
from services.trainer.rollouts import Rollouts
from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.samplers import Reload, Samplers
from services.trainer.settings import TrainerSettings
from services.trainer.weight_broadcaster import WeightBroadcaster
from services.trainer.weights import WeightsFolder, to_broadcast
from services.trainer.worker_thread import WorkerThread

_CONSUMER = "trainer"
"""The trainer's name in the streams. A run has one trainer, and it must find its unfinished work on any machine."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True)
class TrainingRun:
    """What the training loop works with.

    Attributes:
        broadcaster: how weights reach the samplers where they are not read from a folder.
        heldout: problems to evaluate on; none where nothing is to be evaluated.
        thread: where everything that blocks must run.
        checkpoint: the newest one.
    """

    settings: TrainerSettings
    dataset: Dataset
    heldout: tuple[Problem, ...]
    rollouts: Rollouts
    policy: Policy
    weights: WeightsFolder
    samplers: Samplers
    broadcaster: WeightBroadcaster | None
    checkpoints: Checkpoints
    log: RunLog
    control: RunControl
    thread: WorkerThread
    checkpoint: Checkpoint | None = None

    async def publish(self, version: int, canary_sequences: Sequence[Sequence[int]]) -> Reload:
        """Publish the policy's weights and have every sampler load them.

        Raises:
            UnavailableError: a sampler did not load them.
            MismatchError: a sampler does not serve what was published.
        """
        if self.broadcaster is not None:
            broadcast = await self.thread.run(to_broadcast, self.policy, version, canary_sequences)
            reload = await self.broadcaster.publish(broadcast)
        else:
            published = await self.thread.run(self.weights.publish, self.policy, version, canary_sequences)
            reload = await self.samplers.load(published)
        self.control.policy_version = version
        return reload

    async def collect(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for trees. A sampler that starts anew meanwhile, and has no folder to start from, gets the weights."""
        return await (waiting if self.broadcaster is None else self.broadcaster.meanwhile(waiting))

    async def save_checkpoint(self) -> Checkpoint:
        """Write a checkpoint of the last step done, unless there is one, and let go of the trees that it covers."""
        step = self.control.step
        if self.checkpoint is None or self.checkpoint.step != step:
            offsets = await self.thread.run(self.log.sync)
            self.checkpoint = await self.thread.run(self.checkpoints.save, step, offsets, self._write_state)
            self._show_checkpoint(self.checkpoint)
            await self.rollouts.commit(step)
        return self.checkpoint

    async def start(self) -> None:
        """Take up the newest checkpoint, or wipe what an earlier run left and begin at step 0.

        Raises:
            CheckpointError: there are checkpoints but none can be used.
        """
        if self.settings.resume == "auto":
            self.checkpoint = await self.thread.run(self.checkpoints.latest)
        if self.checkpoint is None:
            self.checkpoints.discard()
            self.log.open({})
            await self.rollouts.start_afresh()
        else:
            await self.thread.run(self.policy.load, self.checkpoint.folder)
            self.log.open(self.checkpoint.log_offsets)
            await self.rollouts.go_on(self.checkpoint.step)
            self.control.step = self.checkpoint.step
            self._show_checkpoint(self.checkpoint)
        self.weights.discard_after(self.control.step)
        metrics.STEP.set(self.control.step)
        metrics.STEP_TIMESTAMP.set_to_current_time()
        metrics.CHECKPOINT_EVERY.set(self.settings.checkpoint_every)
        log.info("starting", step=self.control.step, steps=self.settings.steps)

    def _write_state(self, folder: Path) -> None:
        self.policy.save(folder)
        (folder / MODEL).mkdir()
        self.weights.write(self.policy, folder / MODEL)

    def _show_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.control.checkpoint_step = checkpoint.step
        metrics.CHECKPOINT_STEP.set(checkpoint.step)


@asynccontextmanager
async def open_run(settings: TrainerSettings, control: RunControl, run_log: RunLog) -> AsyncIterator[TrainingRun]:
    """Put a run together and start it.

    Raises:
        ConfigurationError: a data file or the model cannot be used.
        UnavailableError: Redis does not answer.
        CheckpointError: no checkpoint can be used although there are some.
    """
    dataset, heldout = load_problems(settings)
    async with AsyncExitStack() as resources:
        redis = await connect(settings.redis_url)
        resources.push_async_callback(redis.aclose)
        samplers = Samplers(settings)
        resources.push_async_callback(samplers.close)
        thread = WorkerThread()
        resources.push_async_callback(thread.close)
        policy = await thread.run(Policy, settings)
        resources.push_async_callback(thread.run, policy.close)
        broadcasts = settings.weights_transport == "broadcast"
        run = TrainingRun(
            settings=settings,
            dataset=dataset,
            heldout=heldout,
            rollouts=Rollouts(Streams(redis, settings.run, _CONSUMER), settings.sample_timeout_s),
            policy=policy,
            weights=WeightsFolder(settings.output_dir / "weights", settings.model),
            samplers=samplers,
            broadcaster=WeightBroadcaster(settings, samplers, policy, thread) if broadcasts else None,
            checkpoints=Checkpoints(settings.output_dir / "checkpoints", settings.keep_checkpoints),
            log=run_log,
            control=control,
            thread=thread,
        )
        await run.start()
        yield run
