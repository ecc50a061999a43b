"""One interceptor for every RPC of ours: errors become status codes, and calls are counted and timed.

A request that cannot be parsed is an error of the client like any other. A client that stops reading its stream is cut
off after a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from services.common import metrics
from services.common.errors import InvalidRequestError, OverloadedError, SlowReaderError, TreerlError
from services.common.overload import hint_metadata

OUR_PACKAGE = "/treerl."

MAX_MESSAGE_CHARACTERS = 600
"""Longest error message sent. It travels in a header, where gRPC takes 8 KiB: 12 bytes for a character at worst."""


class StatusInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Maps `TreerlError` to the status its class names; other exceptions are bugs and reach the client as UNKNOWN."""

    def __init__(self, stalled_reader_s: float) -> None:
        """
        Args:
            stalled_reader_s: seconds that a streamed message may wait for the client to read.
        """
        self._stalled_reader_s = stalled_reader_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OUR_PACKAGE):
            return handler
        return self._wrap(handler, method)

    def _wrap(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        parse = _parse_each if handler.request_streaming else _parse

        async def respond(data: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            async def call() -> Any:
                return await behaviour(parse(handler.request_deserializer, data), context)

            return await _observed(method, context, call)

        async def respond_in_parts(data: Any, context: aio.ServicerContext[Any, Any]) -> None:
            async def call() -> None:
                request = parse(handler.request_deserializer, data)
                # closed here and now, not by the garbage collector: a call that ends frees what it holds
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        await self._write(response, context)

            await _observed(method, context, call)

        makers = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make: Any = makers[handler.request_streaming, handler.response_streaming]
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            respond_in_parts if handler.response_streaming else respond,
            request_deserializer=None,  # `parse` does it, where its failure has a status
            response_serializer=handler.response_serializer,
        )
        return wrapped

    async def _write(self, response: Any, context: aio.ServicerContext[Any, Any]) -> None:
        try:
            async with asyncio.timeout(self._stalled_reader_s):
                await context.write(response)
        except TimeoutError as error:
            raise SlowReaderError(
                f"the client read nothing for {self._stalled_reader_s:g} s: the call was ended; read as messages come"
            ) from error


async def _observed(method: str, context: aio.ServicerContext[Any, Any], call: Callable[[], Awaitable[Any]]) -> Any:
    """Result of a call, which is counted and timed; its errors end the RPC with their status."""
    started = time.perf_counter()
    status = grpc.StatusCode.UNKNOWN
    try:
        result = await call()
        status = grpc.StatusCode.OK
        return result
    except asyncio.CancelledError:
        status = grpc.StatusCode.CANCELLED
        raise
    except TreerlError as error:
        status, message = error.status, str(error)[:MAX_MESSAGE_CHARACTERS]
        metadata = hint_metadata(error) if isinstance(error, OverloadedError) else ()
    finally:
        metrics.RPCS.labels(method, status.name).inc()
        metrics.RPC_SECONDS.labels(method).observe(time.perf_counter() - started)
    # Not in the except clause: this may wait for ever for a client that does not read, and the error's traceback would
    # keep alive until then all that the call held.
    try:
        return await context.abort(status, message, metadata)
    except aio.InternalError as error:
        raise asyncio.CancelledError from error  # the client is gone


def _parse(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return deserialize(data)
    except DecodeError as error:
        raise InvalidRequestError(f"{len(data)} bytes are not the message that this method takes: {error}") from error


async def _parse_each(deserialize: Callable[[bytes], Any], parts: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in parts:
        yield _parse(deserialize, data)
