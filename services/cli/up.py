"""`treerl up`: all services of a run on this machine, until they are told to stop."""

from pathlib import Path

from services.cli.documents import read_document
from services.cli.local_run import local_run, until_trained
from services.cli.plan import plan_run
from services.cli.probes import require_redis
from services.cli.progress import Progress
from services.cli.run_folder import RunFolder
from services.cli.view import open_view
from services.common.errors import ConfigurationError


async def run_up(config: Path, out: Path | None, samplers: int, verifiers: int) -> None:
    """Start everything, train, and keep the samplers and verifiers serving until interrupted.

    Raises:
        ConfigurationError: the configuration is wrong, or says nowhere to write.
        UnavailableError: the configured Redis does not answer.
        ServiceFailedError: a service was given up.
    """
    folder = out or read_document(config).get("trainer", {}).get("output_dir")
    if folder is None:
        raise ConfigurationError(f"config {config} has no output_dir in [trainer]: set it, or give --out")
    folder = Path(folder)
    plan = plan_run(config, folder, samplers, verifiers)
    if plan.store is None:
        await require_redis(plan.endpoints.redis_url)
    progress = Progress(plan.total_steps)
    with open_view(folder.name, progress) as view:
        async with local_run(plan, folder, progress, view) as supervisor:
            await until_trained(supervisor, RunFolder(folder), progress, view)
            view.phase("training finished; services stay up until Ctrl-C")
            await supervisor.watch()
