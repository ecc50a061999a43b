"""Follows a training run over gRPC, through restarts of the trainer."""

import asyncio
from collections.abc import Callable

import grpc
from grpc import aio

from services.cli.progress import Progress, Record
from services.common.grpc_server import CHANNEL_OPTIONS
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2
from treerl.trainer.v1 import trainer_service_pb2_grpc as trainer_grpc

_RETRY_S = 0.5


async def watch_run(address: str, progress: Progress, on_news: Callable[[Record], None]) -> None:
    """Feed a run's records into `progress` until the run says that it is over.

    Args:
        address: of the trainer.
        progress: takes in every record.
        on_news: called with each record that was new.
    """
    async with aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: trainer_grpc.TrainerServiceAsyncStub = trainer_grpc.TrainerServiceStub(channel)
        while True:
            try:
                await _follow(stub, progress, on_news)
                status = await stub.GetStatus(trainer_pb2.GetStatusRequest())
                if status.state in (trainer_pb2.RUN_STATE_FINISHED, trainer_pb2.RUN_STATE_FAILED):
                    return
            except grpc.RpcError:
                pass  # not there yet, or on its way back from a crash: who supervises it knows when it is gone for good
            await asyncio.sleep(_RETRY_S)


async def _follow(
    stub: "trainer_grpc.TrainerServiceAsyncStub", progress: Progress, on_news: Callable[[Record], None]
) -> None:
    # from the last one on, not the next: an evaluation may have followed it, and knowing a record already is harmless
    request = trainer_pb2.WatchStepsRequest(from_step=progress.done)
    async for response in stub.WatchSteps(request):
        is_step = response.WhichOneof("record") == "step"
        tell(progress, response.step if is_step else response.evaluation, on_news)


def tell(progress: Progress, record: Record, on_news: Callable[[Record], None]) -> None:
    """Take in one record, and pass it on if it is new."""
    if progress.add(record):
        on_news(record)
