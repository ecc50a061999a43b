"""Makes what the demo's run starts from, when the trainer's image is built: `python -m services.demo FOLDER`.

Leaves the warm-started policy in FOLDER/policy and its problems, those of seed 0, in FOLDER/train.jsonl and
FOLDER/heldout.jsonl; what is there already is kept. `treerl demo` does the same on a machine without containers.
"""

import sys
from pathlib import Path

from services.demo.problems import write_problems
from services.demo.warm_start import Progress, WarmStartError, warm_start


def main(folder: Path) -> None:
    """Write what is missing, and say how it goes.

    Raises:
        SystemExit: the policy is not worth reinforcing; one line says why.
    """
    if not (folder / "heldout.jsonl").exists():  # written last
        write_problems(folder, seed=0)
    if (folder / "policy").exists():
        return
    try:
        warm_start(folder / "policy", _tell)
    except WarmStartError as error:
        raise SystemExit(f"error: {error}") from error


def _tell(progress: Progress) -> None:
    if progress.assessments:
        print(progress, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
