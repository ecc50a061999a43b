"""One interceptor for every RPC of ours: errors become status codes, and calls are counted and timed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from services.common import metrics
from services.common.errors import TreerlError

OUR_PACKAGE = "/treerl."


class StatusInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Maps `TreerlError` to the status its class names; other exceptions are bugs and reach the client as UNKNOWN."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OUR_PACKAGE):
            return handler
        return _wrap(handler, method)


def _wrap(handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    async def respond(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        async with _observed(method, context):
            return await behaviour(request, context)

    async def respond_in_parts(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with _observed(method, context):
            async for response in behaviour(request, context):
                yield response

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = makers[handler.request_streaming, handler.response_streaming]
    wrapped: grpc.RpcMethodHandler[Any, Any] = make(
        respond_in_parts if handler.response_streaming else respond,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return wrapped


@asynccontextmanager
async def _observed(method: str, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    started = time.perf_counter()
    status = grpc.StatusCode.UNKNOWN
    try:
        yield
        status = grpc.StatusCode.OK
    except TreerlError as error:
        status = error.status
        await context.abort(status, str(error))
    finally:
        metrics.RPCS.labels(method, status.name).inc()
        metrics.RPC_SECONDS.labels(method).observe(time.perf_counter() - started)
