"""The trainer process: `python -m services.trainer --config FILE`. It ends when the run does.

Under torchrun, or with the setting `processes`, it is several: one leads, the others follow it.
"""

import asyncio
import os
import signal
from typing import Literal

from redis.exceptions import RedisError

from services.common.addresses import without_credentials
from services.common.cancellation import cancel
from services.common.entry import run_service
from services.common.errors import TreerlError, UnavailableError
from services.common.grpc_server import GrpcServer
from services.common.logs import configure_logs
from services.trainer import torchrun
from services.trainer.loggers import open_loggers
from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.servicer import SERVICE_NAME, TrainerServicer
from services.trainer.settings import TrainerSettings
from treerl.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server

LINGER_S = 1.0
"""How long an ended run still answers, so that whoever watched it can ask how it ended, in seconds."""


async def serve(settings: TrainerSettings) -> None:
    """Lead the run, or follow the process that does.

    Raises:
        TreerlError: the run cannot start or cannot go on.
    """
    if torchrun.started_by_torchrun():
        torchrun.die_with_torchrun()
    elif settings.processes > 1:
        reach: Literal["on the loopback", "to other machines"] = (
            "to other machines" if settings.weights_transport == "broadcast" else "on the loopback"
        )
        torchrun.become_torchrun("services.trainer", settings.processes, reach)
    await (_lead if torchrun.rank() == 0 else _follow)(settings)


async def _follow(settings: TrainerSettings) -> None:
    configure_logs(settings.table, f"{settings.instance}-{torchrun.rank()}", settings.log_level)
    from services.trainer.policy import Policy

    policy = Policy(settings)
    # from here on the leader ends this process, once it has ended its call
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    policy.follow()


async def _lead(settings: TrainerSettings) -> None:
    """Train until all steps are done or SIGTERM comes; a step under way is then abandoned.

    Raises:
        TreerlError: the run cannot start or cannot go on.
    """
    control, run_log = RunControl(), RunLog(settings.output_dir, open_loggers(settings))
    server = GrpcServer(settings, SERVICE_NAME)
    add_TrainerServiceServicer_to_server(TrainerServicer(settings, control, run_log), server.server)
    async with server:
        await server.set_serving(True)
        training = asyncio.create_task(_train(settings, control, run_log))
        stopping = asyncio.create_task(server.stopping.wait())
        await asyncio.wait({training, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if training.done():
            await asyncio.sleep(LINGER_S)
            training.result()
        else:
            await cancel(training)


async def _train(settings: TrainerSettings, control: RunControl, run_log: RunLog) -> None:
    # late, because torch takes seconds to load: a wrong setting or a busy port is told at once
    from services.trainer.processes import ProcessLostError
    from services.trainer.train import train
    from services.trainer.training_run import open_run

    try:
        async with open_run(settings, control, run_log) as run:
            await train(run)
        await control.finish()
    except (TreerlError, ProcessLostError) as error:
        await control.fail(str(error))
        raise
    except RedisError as error:
        lost = UnavailableError(f"Redis at {without_credentials(settings.redis_url)} was lost: {error}")
        await control.fail(str(lost))
        raise lost from error
    finally:
        await run_log.close()


if __name__ == "__main__":
    # Idle OpenMP threads must sleep instead of spin, because samplers share the cores: on two cores with twice as many
    # busy threads, steps took a quarter of the time. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run_service(TrainerSettings, serve)
