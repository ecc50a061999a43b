"""Dashboards as Grafana reads them, made with Grafana's own SDK.

Variables choose the data source, namespaces and runs; annotations mark starts, checkpoints and failed reloads.
"""

import itertools
import json

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from monitoring.panels import Board, Look, Panel, Unit
from monitoring.promql import name, series
from services.common import metrics

WIDTH, HEIGHT, COLUMNS = 8, 8, 24
"""Of a panel, and of the grid."""

_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_LETTERS = "ABCDEFGH"


def to_json(board: Board, indent: int | None = 2) -> str:
    """A dashboard's file."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .description(board.description)
        .tags(["treerl"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(
            dashboard.DashboardLink("TreeRL")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["treerl"])
            .as_dropdown(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            _label_variable("namespace", "Namespace", f"label_values({name(metrics.CALLS_WAITING)}, namespace)")
        )
        .with_variable(
            _label_variable(
                "run", "Run", f'label_values({name(metrics.CALLS_WAITING)}{{namespace=~"$namespace"}}, run)'
            )
        )
    )
    for annotation in _annotations():
        built = built.annotation(annotation)
    top, ids = 0, itertools.count(1)
    for row in board.rows:
        place = model.GridPos(h=1, w=COLUMNS, x=0, y=top)
        built = built.with_row(dashboard.Row(row.title).grid_pos(place).id(next(ids)))
        top += 1
        for number, panel in enumerate(row.panels):
            across, down = number % (COLUMNS // WIDTH), number // (COLUMNS // WIDTH)
            place = model.GridPos(h=HEIGHT, w=WIDTH, x=WIDTH * across, y=top + HEIGHT * down)
            built = built.with_panel(_panel(panel).grid_pos(place).id(next(ids)))
        top += HEIGHT * -(-len(row.panels) // (COLUMNS // WIDTH))
    return json.dumps(built.build(), cls=JSONEncoder, indent=indent, sort_keys=True) + "\n"


def _label_variable(variable: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable whose "all" also matches series without the label, as those of a plain scrape."""
    return (
        dashboard.QueryVariable(variable)
        .label(label)
        .datasource(_DATASOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _annotations() -> tuple[dashboard.AnnotationQuery, ...]:
    failed = series(metrics.RELOADS, 'result!="loaded"')
    events = (
        ("Run starts", "blue", f"{series(metrics.RUN_STATE)} == 1"),
        ("Checkpoints", "green", f"changes({series(metrics.CHECKPOINT_STEP)}[$__interval]) > 0"),
        ("Failed reloads", "red", f"increase({failed}[$__interval]) > 0"),
    )
    return tuple(
        dashboard.AnnotationQuery().name(event).icon_color(colour).datasource(_DATASOURCE).enable(True).expr(expr)
        for event, colour, expr in events
    )


def _panel(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_DATASOURCE)
        .unit(panel.unit.value)
        .line_width(1)
        .span_nulls(60_000)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .placement(common_model.LegendPlacement.BOTTOM)
            .display_mode(common_model.LegendDisplayMode.LIST)
        )
    )
    if panel.look is Look.STACKED:
        built = built.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL)).fill_opacity(30)
    if panel.unit is Unit.SHARE:
        built = built.min(0).axis_soft_max(1)
    for letter, query in zip(_LETTERS, panel.queries, strict=False):
        legend = f"{query.legend or panel.title} {{{{namespace}}}} {{{{run}}}}"
        built = built.with_target(
            prometheus.Dataquery().expr(query.expr).legend_format(legend).ref_id(letter).datasource(_DATASOURCE)
        )
    return built
