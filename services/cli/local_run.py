"""A whole run on this machine, from planned commands to recorded steps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.cli.plan import Plan
from services.cli.progress import Progress
from services.cli.run_folder import RunFolder
from services.cli.supervisor import Supervisor
from services.cli.view import View
from services.cli.watch import tell, watch_run


@asynccontextmanager
async def local_run(plan: Plan, folder: Path, progress: Progress, view: View) -> AsyncIterator[Supervisor]:
    """Start all services; inside the context the trainer trains and the view follows; on exit everything is ended.

    Raises:
        ServiceFailedError: a service cannot start.
    """
    async with Supervisor(plan, folder, view.service_changed) as supervisor:
        view.phase("starting services (the sampling engine takes longest)")
        await supervisor.start()
        view.phase("training")
        watching = asyncio.create_task(watch_run(plan.endpoints.trainer, progress, view.news))
        try:
            yield supervisor
        finally:
            watching.cancel()


async def until_trained(supervisor: Supervisor, folder: RunFolder, progress: Progress, view: View) -> None:
    """Wait until the trainer has finished, and show what it recorded in its last moments.

    Raises:
        ServiceFailedError: a service was given up.
    """
    await supervisor.finished()
    for step in folder.steps():
        tell(progress, step, view.news)
    for evaluation in folder.evaluations():
        tell(progress, evaluation, view.news)
