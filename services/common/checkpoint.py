"""Checkpoints: folders from which training goes on, each there whole or not at all.

    {root}/step-00000012/   …          what training saves: weights, optimizer, …
                            model/     of a run: the policy as a plain Hugging Face folder, for `treerl export`
                            run.json   where training stands, and the SHA-256 of every other file

A folder is filled under a hidden name, forced to disk and renamed. A kill at any instant leaves the one before usable.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.common.durable_folder import digests, write_folder
from services.common.errors import CheckpointError, NotFoundError

MODEL = "model"
"""Folder in a checkpoint that any Hugging Face loader reads."""

_RUN = "run.json"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint.

    Attributes:
        folder: where it is.
        step: steps done, which is also the version of the policy.
        log_offsets: bytes of each log file that it covers, by name.
    """

    folder: Path
    step: int
    log_offsets: Mapping[str, int]


class Checkpoints:
    """All checkpoints of a run, or of a fine-tuning; the newest few are kept."""

    def __init__(self, root: Path, keep: int = 2) -> None:
        """
        Args:
            root: folder of all checkpoints.
            keep: newest ones that `save` leaves.
        """
        self._root = root
        self._keep = keep

    def save(self, step: int, log_offsets: Mapping[str, int], write: Callable[[Path], None]) -> Checkpoint:
        """Write a checkpoint and drop old ones; it is durable on return.

        Args:
            step: steps done.
            log_offsets: bytes of each log file, already on disk, that the checkpoint covers.
            write: writes what training needs to go on into the folder that it is given.
        """
        folder = self._folder(step)

        def write_all(unfinished: Path) -> None:
            write(unfinished)
            run = {"step": step, "log_offsets": dict(log_offsets), "files": digests(unfinished)}
            (unfinished / _RUN).write_text(json.dumps(run))

        write_folder(folder, write_all)  # replaces only ever a damaged one: a step is not saved twice
        for old in self._finished()[: -self._keep]:
            shutil.rmtree(old)
        return Checkpoint(folder, step, dict(log_offsets))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; a damaged one is reported and passed over.

        Raises:
            CheckpointError: there are checkpoints but none is intact.
        """
        folders = self._finished()
        for folder in reversed(folders):
            try:
                return _read(folder)
            except CheckpointError as error:
                log.error("damaged checkpoint passed over", error=str(error))
        if folders:
            raise CheckpointError(f"every checkpoint in {self._root} is damaged; set resume to never to start afresh")
        return None

    def of_step(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            NotFoundError: there is none; says of which steps there are.
            CheckpointError: it is damaged.
        """
        folder = self._folder(step)
        if not folder.exists():
            steps = ", ".join(str(int(there.name.partition("-")[2])) for there in self._finished())
            raise NotFoundError(f"{self._root} has no checkpoint of step {step}; there are: {steps or 'none'}")
        return _read(folder)

    def discard(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self._root / f"step-{step:08d}"

    def _finished(self) -> list[Path]:
        return sorted(self._root.glob("step-*"))


def _read(folder: Path) -> Checkpoint:
    try:
        run = json.loads((folder / _RUN).read_text())
        checkpoint = Checkpoint(folder, int(run["step"]), dict(run["log_offsets"]))
        expected = dict(run["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / _RUN} cannot be read: {error!r}") from error
    found = digests(folder)
    found.pop(_RUN)
    if found != expected:
        differing = min(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise CheckpointError(f"{folder / differing} is missing, unexpected or differs from its checksum")
    return checkpoint
