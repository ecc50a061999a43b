"""`treerl train`: only the trainer, joined to services that run elsewhere."""

from pathlib import Path

from services.cli.local_run import local_run, until_trained
from services.cli.plan import plan_trainer
from services.cli.probes import require_redis
from services.cli.progress import Progress
from services.cli.run_folder import RunFolder
from services.cli.view import open_view


async def run_train(config: Path) -> None:
    """Train as configured; returns when the run is finished.

    Raises:
        ConfigurationError: the configuration is wrong, or the configured port is in use.
        UnavailableError: the configured Redis does not answer.
        ServiceFailedError: the trainer cannot go on.
    """
    plan, folder = plan_trainer(config)
    await require_redis(plan.endpoints.redis_url)
    progress = Progress(plan.total_steps)
    with open_view(folder.name, progress) as view:
        async with local_run(plan, folder, progress, view) as supervisor:
            await until_trained(supervisor, RunFolder(folder), progress, view)
