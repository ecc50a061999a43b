"""A dashboard as data: what it shows, in rows of panels. `grafana` turns it into what Grafana reads."""

from dataclasses import dataclass
from enum import Enum


class Unit(Enum):
    """How values are written; the values are Grafana's names."""

    NONE = "short"
    SHARE = "percentunit"
    SECONDS = "s"
    PER_SECOND = "cps"


class Look(Enum):
    """How series are drawn."""

    LINES = "lines"
    STACKED = "stacked"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query and what sets its series apart beside the run; `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        title: what is shown.
        description: what it means, and what a healthy value is.
        queries: in the order of the legend.
        unit: of the values.
        look: how they are drawn.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.NONE
    look: Look = Look.LINES


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `name` is that of its file and in its address."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row.panels)
