"""Every sampler of the run, as the trainer sees them: something that loads weights and proves it."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import structlog
from grpc import aio

from services.common.errors import MismatchError, UnavailableError
from services.common.grpc_server import CHANNEL_OPTIONS
from services.common.published_weights import PublishedWeights
from services.common.restarts import GONE
from services.common.weight_broadcast import Broadcast, Rendezvous, encode_broadcast
from services.trainer.sampler_addresses import sampler_addresses
from services.trainer.settings import TrainerSettings
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1.sampler_service_pb2_grpc import SamplerServiceStub

_RETRY_S = 0.5
"""Pause before a sampler that does not answer is asked again."""

_STATUS_S = 10.0
"""Longest that a sampler may take to say how it is."""

_REFUSALS = (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
"""What a sampler answers to a load that it would refuse again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reload:
    """What the reload of all samplers cost and proved.

    Attributes:
        pause_s: of the sampler that could not sample for longest, in seconds.
        canary_max_abs_logprob_diff: of the sampler that is furthest from the trainer, in nats.
    """

    pause_s: float
    canary_max_abs_logprob_diff: float

    @classmethod
    def of(cls, responses: Collection[pb.LoadCheckpointResponse]) -> Self:
        """What all samplers answered."""
        return cls(
            pause_s=max(response.pause_s for response in responses),
            canary_max_abs_logprob_diff=max(response.canary_max_abs_logprob_diff for response in responses),
        )


class Samplers:
    """Clients of all samplers; close after use."""

    def __init__(self, settings: TrainerSettings) -> None:
        """Connect to `settings.samplers` when they are first needed."""
        self._given = settings.samplers
        self._channels: dict[str, aio.Channel] = {}
        self._patience_s = settings.reload_patience_s
        self._canary_tolerance = settings.canary_tolerance
        self._in_flight = pb.InFlightMode.Value(f"IN_FLIGHT_MODE_{settings.reload_in_flight.upper()}")

    async def load(self, weights: PublishedWeights) -> Reload:
        """Have every sampler load weights, all at once, and check what each one answers.

        Raises:
            UnavailableError: one did not answer within the patience, or could not load; names it. Or there is none.
            MismatchError: one refused the weights, or serves something else than was published; names it.
        """
        deadline = time.monotonic() + self._patience_s
        responses: list[pb.LoadCheckpointResponse] = []
        while not responses:
            await self._connect(await sampler_addresses(self._given))
            answers = await asyncio.gather(*(self._load(address, weights, deadline) for address in self._channels))
            responses = [answer for answer in answers if answer is not None]
            if not responses and time.monotonic() > deadline:
                raise UnavailableError(f"no sampler is at {', '.join(self._given)}: {self._patience_s:g} s have passed")
            if not responses:
                await asyncio.sleep(_RETRY_S)
        return Reload.of(responses)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close(grace=None) for channel in self._channels.values()))

    async def _connect(self, addresses: Sequence[str]) -> None:
        """Have a channel to each of these addresses, and to no other."""
        # without the bound gRPC backs off to minutes, long after a restarted sampler is back
        options = [*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 1000)]
        for address in self._channels.keys() - set(addresses):
            await self._channels.pop(address).close(grace=None)
        for address in addresses:
            if address not in self._channels:
                self._channels[address] = aio.insecure_channel(address, options=options)

    async def statuses(self) -> dict[str, pb.GetStatusResponse | None]:
        """What each sampler says of itself, by address; None of one that does not answer."""
        await self._connect(await sampler_addresses(self._given))
        answers = await asyncio.gather(*map(self._status, self._channels))
        return dict(zip(self._channels, answers, strict=True))

    async def receive(
        self, address: str, broadcast: Broadcast, rendezvous: Rendezvous, timeout_s: float
    ) -> pb.LoadCheckpointResponse:
        """Have one sampler receive weights, and check what it answers.

        Raises:
            UnavailableError: it did not load them; names it.
            MismatchError: it refused the weights, or serves something else than was sent; names it.
        """
        request = encode_broadcast(broadcast, rendezvous)
        request.in_flight = self._in_flight
        try:
            response: pb.LoadCheckpointResponse = await self._stub(address).LoadCheckpoint(request, timeout=timeout_s)
        except aio.AioRpcError as error:
            raise _not_loaded(address, broadcast.policy_version, error) from error
        self._check(address, broadcast, response)
        return response

    def _stub(self, address: str) -> Any:
        return SamplerServiceStub(self._channels[address])  # its types know no asyncio

    async def _status(self, address: str) -> pb.GetStatusResponse | None:
        try:
            response: pb.GetStatusResponse = await self._stub(address).GetStatus(
                pb.GetStatusRequest(), timeout=_STATUS_S
            )
        except aio.AioRpcError as error:
            if error.code() not in (*GONE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise UnavailableError(f"sampler {address}: {error.code().name}: {error.details()}") from error
            return None
        return response

    async def _load(self, address: str, weights: PublishedWeights, deadline: float) -> pb.LoadCheckpointResponse | None:
        """What a sampler answers; None if it left meanwhile."""
        request = pb.LoadCheckpointRequest(
            policy_version=weights.policy_version,
            location=str(weights.folder.absolute()),
            checksum=weights.checksum,
            in_flight=self._in_flight,
        )
        call = self._stub(address).LoadCheckpoint
        while True:
            try:
                response: pb.LoadCheckpointResponse = await call(
                    request, timeout=max(deadline - time.monotonic(), _RETRY_S)
                )
            except aio.AioRpcError as error:
                if error.code() in GONE and address not in await sampler_addresses(self._given):
                    log.info("sampler left", address=address)
                    return None
                # a sampler that was killed is started again by its supervisor
                if error.code() in GONE and time.monotonic() < deadline:
                    await asyncio.sleep(_RETRY_S)
                    continue
                raise _not_loaded(address, weights.policy_version, error) from error
            self._check(address, weights, response)
            return response

    def _check(self, address: str, weights: PublishedWeights | Broadcast, response: pb.LoadCheckpointResponse) -> None:
        served = response.policy_version, response.checksum
        if served != (weights.policy_version, weights.checksum):
            raise MismatchError(
                f"sampler {address} serves version {served[0]} ({served[1][:12]}…) after a reload, "
                f"published was version {weights.policy_version} ({weights.checksum[:12]}…)"
            )
        difference = response.canary_max_abs_logprob_diff
        if not difference <= self._canary_tolerance:  # so that NaN is refused too
            raise MismatchError(
                f"sampler {address} loaded version {weights.policy_version} but computes its canary {difference:.3g} "
                f"nats off, allowed are {self._canary_tolerance:g}: it still uses other weights somewhere"
            )


def _not_loaded(address: str, policy_version: int, error: aio.AioRpcError) -> UnavailableError | MismatchError:
    kind = MismatchError if error.code() in _REFUSALS else UnavailableError
    return kind(f"sampler {address} did not load version {policy_version}: {error.code().name}: {error.details()}")
