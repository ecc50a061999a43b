"""`treerl sft`: a model learns from demonstrations, in this process."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from services.common.logs import configure_logs
from services.sft.fine_tuning import Progress, Recipe, fine_tune
from services.sft.saved_steps import Resume


def run_sft(recipe: Recipe, output: Path, checkpoint_every: int, resume: Resume) -> None:
    """Fine-tune, or go on with a fine-tuning that was killed, with a progress bar; say what came of it.

    Raises:
        PreconditionError: `output` exists, or checkpoints of another recipe do.
        CheckpointError: there are checkpoints but none is intact.
        ConfigurationError: the data or the model cannot be used.
    """
    configure_logs("sft", "sft", level="error")  # a damaged checkpoint that is passed over is told
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with ProgressBar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading", total=None)

        def show(progress: Progress) -> None:
            described = f"loss {progress.loss:.4f}"
            bar.update(task, description=described, total=progress.steps, completed=progress.step)

        outcome = fine_tune(recipe, output, show, checkpoint_every=checkpoint_every, resume=resume)
    left_out = f", {outcome.too_long} left out as too long" if outcome.too_long else ""
    print(
        f"{outcome.examples} demonstrations{left_out}, {outcome.steps} steps: loss {outcome.losses[0]:.4f} before the "
        f"first, {outcome.losses[-1]:.4f} before the last, in nats a response token. Saved in {output}"
    )
