"""`treerl export`: the policy of a checkpoint as a folder that transformers and vLLM load.

Files are checked against their checksums and copied: nothing is converted, so what is exported is what was trained.
"""

import shutil
from pathlib import Path

from services.cli.run_folder import RunFolder
from services.common.checkpoint import MODEL, Checkpoint, Checkpoints
from services.common.durable_folder import write_folder
from services.common.errors import ConfigurationError, InvalidRequestError, NotFoundError

_CHAT_TEMPLATE = "chat_template.jinja"
"""Where transformers and vLLM look for it first."""


def export_policy(run: RunFolder, step: int | None, output: Path) -> Checkpoint:
    """Write the policy of a checkpoint to a folder of its own.

    Args:
        run: folder of the run.
        step: of the checkpoint; None for the newest that is intact.
        output: does not exist yet, or is empty.

    Returns:
        The checkpoint that was exported.

    Raises:
        NotFoundError: there is no such checkpoint.
        CheckpointError: it is damaged.
        InvalidRequestError: `output` holds something.
        ConfigurationError: the chat template that the run used is gone.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidRequestError(f"{output} exists and is not an empty folder; give another --output")
    checkpoints = Checkpoints(run.path / "checkpoints")
    checkpoint = checkpoints.latest() if step is None else checkpoints.of_step(step)
    if checkpoint is None:
        raise NotFoundError(f"{run.path} has no checkpoint yet; the trainer writes one every checkpoint_every steps")
    template = run.configuration().get("sampler", {}).get("chat_template")

    def write(folder: Path) -> None:
        shutil.copytree(checkpoint.folder / MODEL, folder, dirs_exist_ok=True)
        if template is not None:
            _copy_template(Path(template), folder / _CHAT_TEMPLATE)

    write_folder(output.absolute(), write)
    return checkpoint


def _copy_template(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise ConfigurationError(
            f"the chat_template that the run sampled with cannot be read: {source}: {error.strerror}"
        ) from error
