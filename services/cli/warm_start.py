"""The demo's warm start in a process of its own, so that the process that supervises the run never loads torch.

`python -m services.cli.warm_start` prints one JSON object a line: progress, then the folder.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.clean_stdout import clean_stdout
from services.cli.process import ERROR_PREFIX, LAUNCHER
from services.common.errors import UnavailableError

if TYPE_CHECKING:
    from services.demo.warm_start import Progress


async def warm_started_policy(on_progress: Callable[[str], None]) -> Path:
    """Folder of the demo's policy, trained now if this machine has none yet.

    Args:
        on_progress: told how far it is, in a few words.

    Raises:
        UnavailableError: the warm start failed.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
        *(sys.executable, "-m", "services.cli.warm_start"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    folder: Path | None = None
    complaints = asyncio.create_task(child.stderr.read())
    try:
        async for line in child.stdout:
            record = json.loads(line)
            if "folder" in record:
                folder = Path(record["folder"])
            else:
                on_progress(record["progress"])
        await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    said = (await complaints).decode(errors="replace").strip().splitlines()
    if folder is None:
        reason = said[-1].removeprefix(ERROR_PREFIX) if said else f"it ended with status {child.returncode}"
        raise UnavailableError(f"the demo's warm start failed: {reason}")
    return folder


def main() -> None:
    """Train the policy, or find it in the cache, and say how it goes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the trainer, and before torch is loaded
    from services.demo.warm_start import WarmStartError
    from services.demo.warm_start_cache import cached_warm_start, default_cache_folder

    with clean_stdout() as records:

        def tell(progress: "Progress") -> None:
            if progress.assessments:
                print(json.dumps({"progress": str(progress)}), file=records, flush=True)

        try:
            done = cached_warm_start(default_cache_folder(), tell)
        except WarmStartError as error:
            raise SystemExit(f"{ERROR_PREFIX}{error}") from error
        print(json.dumps({"folder": str(done.folder)}), file=records, flush=True)


if __name__ == "__main__":
    main()
