"""What a user sees while a run goes: a live screen on a terminal, plain lines anywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from services.cli.live import LiveScreen
from services.cli.plain import PlainLines
from services.cli.process import SupervisedProcess
from services.cli.progress import Progress, Record


class View(Protocol):
    """Shows what happens."""

    def phase(self, text: str) -> None:
        """What the run is doing now, in a few words."""

    def service_changed(self, process: SupervisedProcess) -> None:
        """A service changed its state."""

    def news(self, record: Record) -> None:
        """A step or an evaluation was done."""


@contextmanager
def open_view(title: str, progress: Progress) -> Iterator[View]:
    """The view that fits where standard output goes."""
    console = Console()
    if not console.is_terminal:
        yield PlainLines(progress)
        return
    with LiveScreen(console, title, progress) as screen:
        yield screen
