"""Calls to a running service, with errors that say what to do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio

from services.common.errors import InvalidRequestError, OverloadedError, TreerlError, UnavailableError
from services.common.grpc_server import CHANNEL_OPTIONS


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[aio.Channel]:
    """A channel to a service."""
    async with aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield channel


def told(error: aio.AioRpcError, service: str, address: str) -> TreerlError:
    """What a failed call means to a user."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return UnavailableError(f"no {service} answers at {address}: {error.details()}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidRequestError(f"the {service} at {address} refused: {error.details()}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OverloadedError(f"the {service} at {address} has too much to do: {error.details()}")
        case code:
            return TreerlError(f"the {service} at {address} failed: {code.name}: {error.details()}")
