"""The sampler process: `python -m services.sampler --config FILE`."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.common import published_weights
from services.common.entry import run_service
from services.common.errors import CheckpointError, ConfigurationError
from services.common.grpc_server import GrpcServer
from services.common.streams import Streams, connect
from services.sampler.prompts import TokenizerCodec
from services.sampler.request_limits import MAX_REQUEST_BYTES
from services.sampler.servicer import SERVICE_NAME, SamplerServicer
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from services.sampler.worker import SamplerWorker
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

HEALTH_CHECK_S = 1.0
"""Seconds between two looks at the engine's process."""

log = structlog.get_logger()


async def serve(settings: SamplerSettings) -> None:
    """Run until SIGTERM.

    Raises:
        TreerlError: the sampler cannot start, or its engine died.
    """
    if not (settings.model / "config.json").is_file():
        raise ConfigurationError(f"no model in {settings.model}: expected a Hugging Face folder with config.json")
    servicer = SamplerServicer(settings)
    server = GrpcServer(settings, SERVICE_NAME, MAX_REQUEST_BYTES)
    rpc.add_SamplerServiceServicer_to_server(servicer, server.server)
    async with server:
        redis = await connect(settings.redis_url)
        prompts = TokenizerCodec(settings)
        engine, weights = await load(settings, server.set_serving)
        try:
            servicer.attach(engine, prompts, weights)
            await server.set_serving(True)
            log.info("serving", policy_version=weights.policy_version)
            worker = SamplerWorker(engine, prompts, weights, settings)
            streams = Streams(redis, settings.run, settings.instance)
            working = asyncio.create_task(worker.run(streams, server.stopping))
            watching = asyncio.create_task(watch(engine, weights))
            ended, _ = await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            for task in ended:
                task.result()
        finally:
            await server.drained()
            engine.close()
            await redis.aclose()


async def load(
    settings: SamplerSettings, on_trust: Callable[[bool], Awaitable[None]]
) -> tuple[VllmEngine, ServedWeights]:
    """Start the engine on the latest good weights that were published, or on the model folder if there are none.

    Raises:
        CheckpointError: all published weights are damaged, or the engine's canary differs from the trainer's.
    """
    while True:
        published = None
        if settings.weights_dir is not None:
            published = await asyncio.to_thread(published_weights.latest, settings.weights_dir)
        start = published or published_weights.unpublished(settings.model)
        try:
            engine = await VllmEngine.start(settings, start.folder, start.policy_version)
            break
        except ConfigurationError:
            if start.folder.exists():
                raise
            log.info("the trainer dropped weights that were about to be loaded", policy_version=start.policy_version)
    weights = ServedWeights(engine, start, settings.canary_tolerance_nats, on_trust)
    if published is not None:
        try:
            await weights.prove(published)
        except CheckpointError:
            engine.close()
            raise
    return engine, weights


async def watch(engine: VllmEngine, weights: ServedWeights) -> None:
    """Return never.

    Raises:
        UnavailableError: the engine's process died.
        CheckpointError: a load failed and the old weights are gone; a new process starts from the last good ones.
    """
    while True:
        engine.check_health()
        if not weights.intact:
            raise CheckpointError("a load failed and the weights before it could not be brought back")
        await asyncio.sleep(HEALTH_CHECK_S)


if __name__ == "__main__":
    run_service(SamplerSettings, serve)
