"""Charts as geometry, in pixels of their own box; the template only draws what stands here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 28
_TICKS = 5
_SMALL = 0.01

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Values over steps.

    Attributes:
        label: for the legend.
        colour: 1 to 4, a slot of the palette.
        points: (step, value), by step.
        band: (step, low, high), by step; empty for none.
    """

    label: str
    colour: int
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis, and where."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point that tells its value when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn series."""

    label: str
    colour: int
    path: str
    band: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a stacked column."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws."""

    title: str
    note: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    legend: tuple[tuple[int, str], ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    width: int = field(default=WIDTH, init=False)
    height: int = field(default=HEIGHT, init=False)
    left: int = field(default=_LEFT, init=False)
    right: int = field(default=WIDTH - _RIGHT, init=False)
    bottom: int = field(default=HEIGHT - _BOTTOM, init=False)


class _Axis:
    """Maps values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._scale = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) * self._scale, 2)


def line_chart(title: str, note: str, series: Sequence[Series], *, unit: str, over: str = "step") -> Chart:
    """Lines over steps or another quantity, with bands where the series have them.

    Args:
        title: above the chart.
        note: one sentence on what is shown.
        series: what to draw.
        unit: `share` for percentages, else the unit's name.
        over: what the first number of a point is; an axis of anything but steps begins at 0.
    """
    values = [y for s in series for _, y in s.points] + [y for s in series for _, *ends in s.band for y in ends]
    steps = [x for s in series for x, _ in s.points]
    ticks = nice_ticks(0.0, max(0.0, *values))  # estimates such as a KL may come out a hair below 0
    x_ticks = _step_ticks(steps) if over == "step" else nice_ticks(0.0, max(steps))
    x, y = _axes(min(*steps, x_ticks[0]), max(*steps, x_ticks[-1]), ticks[-1])
    lines = tuple(
        Line(
            label=s.label,
            colour=s.colour,
            path=_path([(x(step), y(value)) for step, value in s.points]),
            band=_path([(x(b[0]), y(b[2])) for b in s.band] + [(x(b[0]), y(b[1])) for b in reversed(s.band)]),
            dots=tuple(Dot(x(a), y(b), f"{over} {a:g}: {_format(b, unit, exact=True)}") for a, b in s.points),
        )
        for s in series
    )
    legend = tuple((s.colour, s.label) for s in series) if len(series) > 1 else ()
    return Chart(title, note, _x_ticks(x_ticks, x), _y_ticks(ticks, y, unit), legend, lines=lines)


def stacked_chart(title: str, note: str, series: Sequence[Series], *, unit: str) -> Chart:
    """Columns over steps, one part a series; all series have the same steps."""
    steps = [x for x, _ in series[0].points]
    totals = [sum(s.points[i][1] for s in series) for i in range(len(steps))]
    ticks = nice_ticks(0.0, max(totals))
    x, y = _axes(min(steps) - 0.6, max(steps) + 0.6, ticks[-1])
    width = min(28.0, (x(1) - x(0)) * 0.72)
    bars: list[Bar] = []
    for index, step in enumerate(steps):
        base = 0.0
        for s in series:
            value = s.points[index][1]
            top = y(base + value)
            described = f"step {step:g}: {s.label} {_format(value, unit, exact=True)}"
            bars.append(Bar(x(step) - width / 2, top, width, y(base) - top, s.colour, described))
            base += value
    legend = tuple((s.colour, s.label) for s in series)
    return Chart(title, note, _x_ticks(_step_ticks(steps), x), _y_ticks(ticks, y, unit), legend, bars=tuple(bars))


def nice_ticks(low: float, high: float) -> list[float]:
    """Round values that cover [low, high] evenly."""
    rough = (high - low) / _TICKS or 1.0
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough)
    return [low + i * step for i in range(math.ceil(round((high - low) / step, 9)) + 1)]


def _axes(first: float, last: float, top: float) -> tuple[_Axis, _Axis]:
    return _Axis(first, last, _LEFT, WIDTH - _RIGHT), _Axis(0.0, top, HEIGHT - _BOTTOM, _TOP)


def _step_ticks(steps: Sequence[float]) -> Sequence[float]:
    first, last = int(min(steps)), int(max(steps))
    return range(first, last + 1, max(1, math.ceil((last - first) / 8)))


def _x_ticks(ticks: Sequence[float], x: _Axis) -> tuple[Tick, ...]:
    return tuple(Tick(x(tick), f"{tick:g}") for tick in ticks)


def _y_ticks(ticks: Sequence[float], y: _Axis, unit: str) -> tuple[Tick, ...]:
    return tuple(Tick(y(tick), _format(tick, unit)) for tick in ticks)


def _format(value: float, unit: str, *, exact: bool = False) -> str:
    if unit == "share":
        return f"{value:.1%}" if exact else f"{value:.0%}"
    number = f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") if 0 < value < _SMALL else f"{value:.3g}"
    return f"{number} {unit}" if exact else number


def _path(points: Sequence[Point]) -> str:
    return "M" + " L".join(f"{x},{y}" for x, y in points) if points else ""
