"""TensorBoard and Weights & Biases: the record of a run, for whoever looks at runs there. Both are optional packages.

A run that goes on from a checkpoint does some steps again. TensorBoard's files are written anew from what the record
keeps, so that no step is there twice. What was sent to Weights & Biases stays: steps that were sent are not sent again.
"""

import importlib.util
import json
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from services.common.addresses import without_credentials
from services.common.errors import ConfigurationError
from services.trainer.records import Record, StepMetrics
from services.trainer.settings import TrainerSettings

_WANDB_STATE = "wandb.json"


class Logger(Protocol):
    """Shows a run's record elsewhere."""

    def start(self, records: Sequence[Record]) -> None:
        """Begin, with what is already recorded of the run."""

    def write(self, record: Record) -> None:
        """Add what was recorded last."""

    def close(self) -> None:
        """Write everything out."""


def open_loggers(settings: TrainerSettings) -> tuple[Logger, ...]:
    """The loggers that the settings name.

    Raises:
        ConfigurationError: one's package is not installed; names the extra that installs it.
    """
    makers: dict[str, Callable[[TrainerSettings], Logger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}
    for name in settings.loggers:
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(
                f"loggers names {name}, which is not installed: pip install 'treerl[{name}]', or leave it out"
            )
    return tuple(makers[name](settings) for name in settings.loggers)


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a step or an evaluation, by the names under which they are shown."""
    if isinstance(record, StepMetrics):
        row = asdict(record)
        verdicts = row.pop("verdict_counts")
        steps = {f"train/{name}": float(value) for name, value in row.items() if name not in ("step", "unix_time_s")}
        return steps | {f"verdicts/{outcome}": float(count) for outcome, count in verdicts.items()}
    categories = {f"heldout/{c.category}": c.correct / c.problems for c in record.categories if c.problems}
    drawn = {f"heldout/pass@{k}": value for k, value in record.pass_at.items()}
    return {"heldout/accuracy": record.accuracy} | categories | drawn


def position(record: Record) -> int:
    """The step after which it was recorded; an evaluation of version v belongs to step v."""
    return record.step if isinstance(record, StepMetrics) else record.policy_version


class TensorBoardLogger:
    """Event files in the run's folder, under `tensorboard`."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._folder = settings.output_dir / "tensorboard"
        self._writer: Any = None

    def start(self, records: Sequence[Record]) -> None:
        """See `Logger.start`."""
        from tensorboard.summary import Writer  # type: ignore[import-untyped]

        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = Writer(str(self._folder))
        for record in records:
            self._add(record)
        self._writer.flush()

    def write(self, record: Record) -> None:
        """See `Logger.write`."""
        self._add(record)
        self._writer.flush()

    def close(self) -> None:
        """See `Logger.close`."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, record: Record) -> None:
        wall_time = record.unix_time_s if isinstance(record, StepMetrics) else time.time()
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, position(record), wall_time=wall_time)


class WandbLogger:
    """A run of Weights & Biases under the run's name.

    Project, entity, key and mode are those of its own environment variables; `WANDB_MODE=offline` needs no network.
    """

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._state = settings.output_dir / _WANDB_STATE
        self._run: Any = None
        self._sent = -1

    def start(self, records: Sequence[Record]) -> None:
        """See `Logger.start`."""
        import wandb

        if records and self._state.exists():
            state = json.loads(self._state.read_text(encoding="utf-8"))
        else:
            state = {"id": uuid.uuid4().hex[:8], "sent": -1}
        self._sent = state["sent"]
        self._run = wandb.init(
            id=state["id"],
            resume="allow",
            name=self._settings.run,
            dir=str(self._settings.output_dir),
            config=_shown(self._settings),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        for record in records:
            self.write(record)

    def write(self, record: Record) -> None:
        """See `Logger.write`."""
        place = 2 * position(record) + (not isinstance(record, StepMetrics))  # evaluations follow their step
        if place <= self._sent:
            return
        self._run.log(scalars(record), step=position(record))
        self._sent = place
        self._state.write_text(json.dumps({"id": self._run.id, "sent": place}) + "\n", encoding="utf-8")

    def close(self) -> None:
        """See `Logger.close`."""
        if self._run is not None:
            self._run.finish()


def _shown(settings: TrainerSettings) -> dict[str, Any]:
    """The settings without what is secret in them."""
    return settings.model_dump(mode="json") | {"redis_url": without_credentials(settings.redis_url)}
