"""The view for terminals: services, progress, and the run's curves, redrawn a few times a second."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.process import State, SupervisedProcess
from services.cli.progress import Progress, Record
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 36
_STYLES = {
    State.STARTING: "yellow",
    State.READY: "green",
    State.RESTARTING: "bold yellow",
    State.FINISHED: "cyan",
    State.FAILED: "bold red",
    State.STOPPED: "dim",
}


class LiveScreen:
    """Draws a `Progress` and the services that make it; use as a context manager."""

    def __init__(self, console: Console, title: str, progress: Progress) -> None:
        self._title = title
        self._progress = progress
        self._phase = ""
        self._phase_started = time.monotonic()
        self._services: dict[str, SupervisedProcess] = {}
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, text: str) -> None:
        """See `View.phase`."""
        self._phase, self._phase_started = text, time.monotonic()

    def service_changed(self, process: SupervisedProcess) -> None:
        """See `View.service_changed`."""
        self._services[process.command.name] = process

    def news(self, record: Record) -> None:
        """See `View.news`; the next redraw reads it from the progress."""

    def render(self) -> RenderableType:
        """The whole screen."""
        parts: list[RenderableType] = [self._services_line(), self._phase_line()]
        if self._progress.total_steps:
            parts.append(self._bar())
        if self._progress.steps or self._progress.evaluations:
            parts.append(self._curves())
        return Panel(Group(*parts), title=f"[bold]TreeRL[/] · {self._title}", border_style="blue", padding=(1, 2))

    def _services_line(self) -> Text:
        line = Text()
        for name, process in self._services.items():
            line.append("● ", style=_STYLES[process.state])
            line.append(name)
            line.append(f" {process.state.value}", style="dim")
            if process.restarts:
                line.append(f" (restarts: {process.restarts})", style="yellow")
            line.append("   ")
        return line

    def _phase_line(self) -> Text:
        elapsed = time.monotonic() - self._phase_started
        return Text.assemble((self._phase, "bold"), (f"  {clock(elapsed)}" if self._phase else "", "dim"))

    def _bar(self) -> Table:
        done, total, left = self._progress.done, self._progress.total_steps, self._progress.remaining_s
        grid = Table.grid(padding=(0, 2))
        eta = "" if left is None else "done" if done >= total else f"about {clock(left)} left"
        grid.add_row(f"step {done}/{total}", ProgressBar(total, done, width=44), Text(eta, style="dim"))
        return grid

    def _curves(self) -> Table:
        steps, evaluations = self._progress.steps, self._progress.evaluations
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right")
        table.add_column(style="cyan")
        table.add_row("", "", "")
        if evaluations:
            gain = f"  from {evaluations[0].accuracy:.1%}" if len(evaluations) > 1 else "  at the start"
            curve = sparkline([e.accuracy for e in evaluations])
            table.add_row("held-out accuracy", f"[bold]{evaluations[-1].accuracy:.1%}[/]", f"{curve}[dim]{gain}[/]")
        if steps:
            last = steps[-1]
            for name, shown, values in (
                ("reward (pass rate)", f"[bold]{last.pass_rate:.1%}[/]", [s.pass_rate for s in steps]),
                ("tokens/s", f"{tokens_per_s(steps[-1:]):,.0f}", [tokens_per_s([s]) for s in steps]),
                ("entropy", f"{last.entropy:.3f} nats", [s.entropy for s in steps]),
                ("mismatch KL", f"{last.mismatch_kl:.1e} nats", [s.mismatch_kl for s in steps]),
                ("step time", f"{last.step_s:.1f} s", [s.step_s for s in steps]),
                ("reload pause", f"{last.reload_s * 1000:.0f} ms", [s.reload_s for s in steps]),
            ):
                table.add_row(name, shown, sparkline(values))
            waiting = f"waiting: prompts {last.queue_prompts}, trees {last.queue_trees}"
            table.add_row("staleness", f"{last.staleness} steps", Text(waiting, style="dim"))
        return table


def tokens_per_s(steps: Sequence[trainer_pb2.StepMetrics]) -> float:
    """Tokens sampled in a second of whole steps, training and reloads included."""
    seconds = sum(step.step_s for step in steps)
    return sum(step.decoded_tokens for step in steps) / seconds if seconds else 0.0


def sparkline(values: Sequence[float]) -> str:
    """The last values as one row of bars between their smallest and largest."""
    shown = values[-_CURVE_WIDTH:]
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in shown)


def clock(seconds: float) -> str:
    """A duration as people read it: `42 s`, `3:05 min`."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
