"""Publishing weights by broadcast: to all samplers at once, and again to those that have started anew.

Each broadcast has a group of its own, of the samplers that answer at the moment. One that dies in the middle breaks the
group for all: they start anew, unless they have what they served in a folder, and are sent the weights again.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import structlog

from services.common.cancellation import cancel
from services.common.errors import ConfigurationError, MismatchError, UnavailableError
from services.common.weight_broadcast import Broadcast
from services.trainer.policy import Policy
from services.trainer.samplers import Reload, Samplers
from services.trainer.settings import TrainerSettings
from services.trainer.weight_sender import WeightSender
from services.trainer.worker_thread import WorkerThread
from treerl.sampler.v1 import sampler_service_pb2 as pb

_RETRY_S = 0.5
"""Pause before samplers that did not load are looked at again."""

_LOOK_S = 2.0
"""Time between two looks at whether a sampler has started anew."""

T = TypeVar("T")

log = structlog.get_logger()


class WeightBroadcaster:
    """Sends the policy's weights."""

    def __init__(self, settings: TrainerSettings, samplers: Samplers, policy: Policy, thread: WorkerThread) -> None:
        self._host, self._port = settings.broadcast_host, settings.broadcast_port
        self._patience_s = settings.reload_patience_s
        self._samplers = samplers
        self._policy = policy
        self._thread = thread
        self._published: Broadcast | None = None

    async def publish(self, broadcast: Broadcast) -> Reload:
        """Have every sampler receive the policy's weights, and check what each one answers.

        Raises:
            UnavailableError: one did not answer within the patience, or could not load; names it. Or there is none.
            MismatchError: one refused the weights, or serves something else than was sent; names it.
            ConfigurationError: one takes no weights by broadcast, or this machine cannot be reached as set.
        """
        self._published = broadcast
        deadline = time.monotonic() + self._patience_s
        loaded: dict[str, pb.LoadCheckpointResponse] = {}
        failures: dict[str, str] = {}
        while True:
            statuses = await self._samplers.statuses()
            there = {address: status for address, status in statuses.items() if status is not None}
            waiting = {address: status for address, status in there.items() if address not in loaded}
            if waiting:
                answers = await self._send(broadcast, waiting, deadline)
                loaded |= {address: a for address, a in answers.items() if not isinstance(a, UnavailableError)}
                failures = {address: str(a) for address, a in answers.items() if isinstance(a, UnavailableError)}
            missing = statuses.keys() - loaded.keys()
            if loaded and not missing:
                return Reload.of(loaded.values())
            if time.monotonic() > deadline:
                told = [failures.get(address, f"sampler {address} does not answer") for address in sorted(missing)]
                what = "; ".join(told) or "no sampler is there"
                raise UnavailableError(f"{what}: {self._patience_s:g} s have passed")
            await asyncio.sleep(_RETRY_S)

    async def meanwhile(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Await something during which the policy stays as published, and bring samplers that start anew up to it.

        Raises:
            MismatchError: as for `publish`; and whatever the awaited raises.
        """
        task = asyncio.create_task(waiting)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
                await self._send_again()
            return task.result()
        finally:
            await cancel(task)

    async def _send_again(self) -> None:
        assert self._published is not None, "meanwhile comes after publish"
        statuses = await self._samplers.statuses()
        others = {a: s for a, s in statuses.items() if s is not None and s.checksum != self._published.checksum}
        if others:
            log.info("samplers serve other weights than were sent: sending again", samplers=sorted(others))
            answers = await self._send(self._published, others, time.monotonic() + self._patience_s)
            for answer in answers.values():
                if isinstance(answer, UnavailableError):
                    log.warning("weights did not arrive", error=str(answer))

    async def _send(
        self, broadcast: Broadcast, receivers: Mapping[str, pb.GetStatusResponse], deadline: float
    ) -> dict[str, pb.LoadCheckpointResponse | UnavailableError]:
        """Form a group with these samplers and send; what each of them answers."""
        patience_s = max(deadline - time.monotonic(), _RETRY_S)
        for address, status in receivers.items():
            if not status.broadcast_ranks:
                raise ConfigurationError(
                    f"sampler {address} takes no weights by broadcast: set weights_transport to broadcast in its table "
                    "[sampler] too, or to folder in [trainer]"
                )
        sender = WeightSender(self._host, self._port, sum(s.broadcast_ranks for s in receivers.values()), patience_s)

        async def load(address: str, first_rank: int) -> pb.LoadCheckpointResponse:
            try:
                return await self._samplers.receive(address, broadcast, sender.rendezvous(first_rank), patience_s)
            except BaseException:
                sender.give_up()
                raise

        loads, rank = [], 1
        for address, status in receivers.items():
            loads.append(load(address, rank))
            rank += status.broadcast_ranks
        sending = self._thread.run(sender.send, self._policy.send)
        try:
            failure, *answers = await asyncio.gather(sending, *loads, return_exceptions=True)
        finally:
            sender.give_up()  # where this is cancelled, the thread must not wait for those that were not even called
        for answer in answers:
            if isinstance(answer, MismatchError):
                raise answer
        for outcome in (failure, *answers):
            if isinstance(outcome, BaseException) and not isinstance(outcome, UnavailableError):
                raise outcome
        return {
            address: answer
            for address, answer in zip(receivers, answers, strict=True)
            if isinstance(answer, pb.LoadCheckpointResponse | UnavailableError)
        }
