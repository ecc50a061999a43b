"""`treerl demo`: a policy learns to reason by tree search, on this machine, through all services."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.documents import merged, read_document, to_toml
from services.cli.local_run import local_run, until_trained
from services.cli.methods import TRAINER_CHANGES, Method
from services.cli.plan import plan_run
from services.cli.progress import Progress
from services.cli.report import write_report
from services.cli.results import print_results
from services.cli.run_folder import RunFolder
from services.cli.summary import summarize
from services.cli.view import open_view
from services.cli.warm_start import warm_started_policy
from services.common.errors import ConfigurationError, PreconditionError
from services.demo.problems import write_problems

_CONFIG = Path(__file__).parents[2] / "configs" / "tiny-cpu.toml"
_SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user may choose.

    Attributes:
        method: how the policy is trained.
        seed: decides the problems, their order and the sampling.
        steps: training steps; None takes the configuration's.
        out: the run's folder; None names one after method and seed.
        samplers: how many samplers run.
        verifiers: how many verifiers run.
    """

    method: Method
    seed: int
    steps: int | None
    out: Path | None
    samplers: int
    verifiers: int


async def run_demo(options: DemoOptions) -> None:
    """Train, compare before and after, and leave `summary.json` and `report.html` in the run's folder.

    Raises:
        PreconditionError: the folder holds a finished run, or one of another method or seed.
        ServiceFailedError: a service was given up.
    """
    name = f"demo-{options.method.value}-{options.seed}"
    out = (options.out or Path("runs") / name).resolve()
    document = _document(options)
    _require_same_run(out, document)
    progress = Progress(document["trainer"]["steps"])
    with open_view(name, progress) as view:
        view.phase("teaching a tiny policy right and wrong habits (cached after the first time)")
        policy = await warm_started_policy(lambda text: view.phase(f"teaching a tiny policy its habits: {text}"))
        train_data, heldout_data = _problems(out / "data", options.seed)
        data = {"model": str(policy), "train_data": str(train_data), "heldout_data": str(heldout_data)}
        document = merged(document, {"run": name, "sampler": {"model": str(policy)}, "trainer": data})
        config = out / "config.toml"
        config.write_text(to_toml(document))
        plan = plan_run(config, out, options.samplers, options.verifiers)
        folder = RunFolder(out)
        async with local_run(plan, out, progress, view) as supervisor:
            await until_trained(supervisor, folder, progress, view)
            view.phase("finished; stopping services")
    summary = summarize(options.method.value, options.seed, folder.steps(), folder.evaluations())
    report = write_report(folder)
    (out / _SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    print_results(summary, folder.evaluations(), report)


def _problems(folder: Path, seed: int) -> tuple[Path, Path]:
    """Training and held-out problems; a resumed run keeps those that it began with, whatever the generators do now."""
    train_data, heldout_data = folder / "train.jsonl", folder / "heldout.jsonl"
    return (train_data, heldout_data) if heldout_data.exists() else write_problems(folder, seed)


def _document(options: DemoOptions) -> dict[str, Any]:
    if not _CONFIG.exists():
        raise ConfigurationError(f"the demo's configuration {_CONFIG} is missing: run the demo from a clone")
    trainer = {"seed": options.seed, **TRAINER_CHANGES[options.method]}
    if options.steps is not None:
        trainer["steps"] = options.steps
    return merged(read_document(_CONFIG), {"trainer": trainer})


def _require_same_run(out: Path, document: dict[str, Any]) -> None:
    """An unfinished run is resumed, so the folder must hold none, or one that was started in the same way."""
    if (out / _SUMMARY).exists():
        raise PreconditionError(f"{out} holds a finished run: choose another --out, or delete the folder")
    earlier = out / "config.toml"
    if not earlier.exists():
        return
    begun, wanted = read_document(earlier).get("trainer", {}), document["trainer"]
    for key in ("seed", *sorted({key for changes in TRAINER_CHANGES.values() for key in changes})):
        if begun.get(key) != wanted.get(key):
            raise PreconditionError(
                f"{out} holds an unfinished run with {key} {begun.get(key)}, not {wanted.get(key)}: "
                "choose another --out, or delete the folder"
            )
