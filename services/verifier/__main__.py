"""The verifier process: `python -m services.verifier --config FILE`."""

import structlog

from services.common.entry import run_service
from services.common.grpc_server import GrpcServer
from services.common.streams import Streams, connect
from services.verifier.grading import Grader
from services.verifier.servicer import SERVICE_NAME, VerifierServicer
from services.verifier.settings import VerifierSettings
from services.verifier.worker import VerifierWorker
from treerl.verifier.v1 import verifier_service_pb2_grpc as rpc

log = structlog.get_logger()


async def serve(settings: VerifierSettings) -> None:
    """Run until SIGTERM.

    Raises:
        TreerlError: the verifier cannot start.
    """
    servicer = VerifierServicer(settings)
    server = GrpcServer(settings, SERVICE_NAME)
    rpc.add_VerifierServiceServicer_to_server(servicer, server.server)
    async with server:
        redis = await connect(settings.redis_url)
        grader = Grader(settings)
        try:
            await grader.start()
            servicer.attach(grader)
            await server.set_serving(True)
            log.info("serving", isolation=grader.isolation_level.name.lower())
            streams = Streams(redis, settings.run, settings.instance)
            await VerifierWorker(grader, settings).run(streams, server.stopping)
        finally:
            await server.drained()
            await grader.close()
            await redis.aclose()


if __name__ == "__main__":
    run_service(VerifierSettings, serve)
