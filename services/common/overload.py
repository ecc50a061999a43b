"""When to try again, told and heeded: the hint of an overloaded service on the wire, and a client that waits for it.

The hint is a `google.rpc.RetryInfo` in the trailing metadata `grpc-status-details-bin`, where the gRPC libraries of all
languages look for it.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import tenacity
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has stubs, but no py.typed
from grpc import aio

from services.common.errors import OverloadedError

PATIENCE_S = 120.0
"""Seconds after which a client gives up on a service that stays overloaded."""

JITTER = 0.25
"""Largest share that a client adds to the hint, so that those refused together do not come back together."""

_DETAILS = "grpc-status-details-bin"

ResultT = TypeVar("ResultT")


def hint_metadata(error: OverloadedError) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carry an error's hint; none if it has none."""
    if error.retry_after_s is None:
        return ()
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
    status = status_pb2.Status(code=error.status.value[0], message=str(error))
    status.details.add().Pack(info)
    return ((_DETAILS, status.SerializeToString()),)


def retry_after_s(error: BaseException) -> float | None:
    """Seconds after which a failed call may be tried again; None if the service did not say so."""
    if not isinstance(error, aio.AioRpcError):
        return None
    metadata: Any = error.trailing_metadata()  # the stubs name another type
    for value in metadata.get_all(_DETAILS) if metadata else ():
        try:
            details = status_pb2.Status.FromString(value).details
        except DecodeError:  # some proxy's own
            continue
        for detail in details:
            info = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                return float(info.retry_delay.ToMilliseconds()) / 1000
    return None


async def patiently(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """The result of a call that is made again, each time after the hint, while the service is overloaded.

    Raises:
        AioRpcError: the call failed otherwise, or the service stays overloaded for `PATIENCE_S`.
    """
    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: retry_after_s(error) is not None),
        wait=_hinted_wait,
        stop=tenacity.stop_before_delay(PATIENCE_S),
        reraise=True,
    )
    async for attempt in attempts:
        with attempt:
            result = await call()
    return result


def _hinted_wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    hint = None if error is None else retry_after_s(error)
    return (hint or 0.0) * (1 + JITTER * random.random())
