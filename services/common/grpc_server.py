"""The gRPC server every service runs: health, reflection, message limits, and a graceful end on SIGTERM."""

import asyncio
import signal
from types import TracebackType
from typing import Any, Self, TypeAlias

import structlog
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from services.common import metrics
from services.common.errors import ConfigurationError
from services.common.interceptors import StatusInterceptor
from services.common.logs import configure_logs
from services.common.settings import ServiceSettings

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message sent or received; a 30-leaf tree of 8,192 tokens a leaf is about 2 MiB."""

DRAIN_S = 10.0
"""Seconds that calls under way get to end after SIGTERM."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

KEEPALIVE_MS = 20_000
"""Time between two pings of an idle connection: a client whose machine vanished is noticed after at most twice this."""

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
"""What a servicer's method is told about its call."""

log = structlog.get_logger()


class GrpcServer:
    """An asynchronous server that reports SERVING only between `set_serving(True)` and the first SIGTERM or SIGINT.

    Use as an async context manager: register servicers before entering. From the signal on, or on exit, it drains: new
    calls are refused, those under way get `DRAIN_S` to end. Await `drained` before closing what calls work with.
    """

    def __init__(
        self, settings: ServiceSettings, service_name: str, max_request_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        """Set up logs and the server.

        Args:
            settings: where to listen.
            service_name: full name of the protobuf service, for health and reflection.
            max_request_bytes: largest message received; gRPC refuses a larger one before it is in memory.
        """
        configure_logs(settings.table, settings.instance, settings.log_level)
        self._settings = settings
        self._service_name = service_name
        self._health = HealthServicer()
        self._stopping = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self.server = aio.server(
            interceptors=[StatusInterceptor(settings.stalled_reader_s)],
            options=[
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
                ("grpc.so_reuseport", 0),  # else a second server would silently share a busy port
            ],
        )
        self.port = 0

    async def __aenter__(self) -> Self:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection(
            (self._service_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            self.server,
        )
        await self.set_serving(False)
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            self.port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen on {address}: the port is taken or the address is not ours"
            ) from error
        metrics_port = metrics.serve_metrics(self._settings.host, self._settings.metrics_port, self._settings.table)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, self._stopping.set)
        await self.server.start()
        self._draining = asyncio.create_task(self._drain())
        log.info("listening", port=self.port, metrics_port=metrics_port)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drained()
        log.info("stopped")

    async def drained(self) -> None:
        """Begin to end, if it did not yet, and return once no call is under way any more."""
        self._stopping.set()
        if self._draining is not None:
            await self._draining

    async def _drain(self) -> None:
        await self._stopping.wait()
        await self._health.enter_graceful_shutdown()
        await self.server.stop(DRAIN_S)

    async def set_serving(self, serving: bool) -> None:
        """Set what the health service says."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)
        await self._health.set(self._service_name, status)

    def stop(self) -> None:
        """Begin to end, as SIGTERM does."""
        self._stopping.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set once the service should end."""
        return self._stopping
