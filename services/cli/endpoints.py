"""Where the services of a run listen, and which run was started last on this machine."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from services.common.addresses import without_credentials
from services.common.errors import NotFoundError

_FILE = "endpoints.json"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of a run's services; all but the Redis URL are `host:port`."""

    redis_url: str
    samplers: tuple[str, ...]
    verifiers: tuple[str, ...]
    trainer: str

    def write(self, run_folder: Path) -> None:
        """Write them into the run's folder, and note that this run is the current one."""
        shown = asdict(self) | {"redis_url": without_credentials(self.redis_url)}
        _write_whole(run_folder / _FILE, shown)
        _write_whole(_pointer(), {"run_folder": str(run_folder.resolve())})

    @classmethod
    def read(cls, run_folder: Path) -> "Endpoints":
        """Read a run's endpoints.

        Raises:
            NotFoundError: the folder has none.
        """
        path = run_folder / _FILE
        try:
            row = json.loads(path.read_text())
            return cls(row["redis_url"], tuple(row["samplers"]), tuple(row["verifiers"]), row["trainer"])
        except (OSError, ValueError, KeyError) as error:
            raise NotFoundError(f"{path} does not say where a run's services listen: {error!r}") from error


def current_run() -> Path:
    """Folder of the run that was started last by this user on this machine.

    Raises:
        NotFoundError: none was.
    """
    try:
        return Path(json.loads(_pointer().read_text())["run_folder"])
    except (OSError, ValueError, KeyError) as error:
        raise NotFoundError("no run was started on this machine: run `treerl demo` or `treerl up` first") from error


def _pointer() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "treerl" / "current.json"


def _write_whole(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(path)
