"""docs/metrics.md: every metric, with what it measures and where it is shown."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from monitoring.alerts import ALERTS
from monitoring.boards import BOARDS
from monitoring.promql import family_of, name
from services.common import metrics

_HEADER = """<!-- Made by `python -m monitoring` from services/common/metrics.py. -->

# Metrics

Every service serves Prometheus metrics at `/metrics` on its `metrics_port`: what every service measures and what its
own kind does. Dashboards and alerts choose by two labels that the scrape configuration sets, `run` and `namespace`, and
work without them where there is one run. A histogram's series end in `_bucket`, `_sum` and `_count`.
"""

_VLLM = """
## vLLM, on a sampler's port

The engine adds [its own metrics](https://docs.vllm.ai/en/stable/usage/metrics.html), whose names begin with `vllm:`.
Shown are:

"""

_SECTIONS = (("Every service", None), ("Sampler", "sampler"), ("Verifier", "verifier"), ("Trainer", "trainer"))


def reference() -> str:
    """The page."""
    text = _HEADER
    for title, service in _SECTIONS:
        registry = REGISTRY if service is None else metrics.OF_SERVICE[service]
        text += f"\n## {title}\n\n| metric | type | labels | what it measures | shown in |\n|---|---|---|---|---|\n"
        text += "".join(_row(metric) for metric in own_metrics(registry))
    text += _VLLM + "| metric | shown in |\n|---|---|\n"
    vllm = [value for key, value in vars(metrics).items() if key.startswith("VLLM_")]
    return text + "".join(f"| `{metric}` | {_shown_in(metric)} |\n" for metric in vllm)


def own_metrics(registry: CollectorRegistry) -> list[Counter | Gauge | Histogram]:
    """Metrics of ours in a registry, in the order in which they are defined."""
    ours = (value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram))
    there = {family.name for family in registry.collect()}
    return [metric for metric in ours if family_of(metric).name in there]


def _row(metric: Counter | Gauge | Histogram) -> str:
    family = family_of(metric)
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # the library has no public way to ask
    what = family.documentation.replace("|", "\\|")
    return f"| `{name(metric)}` | {family.type} | {labels} | {what} | {_shown_in(name(metric))} |\n"


def _shown_in(metric: str) -> str:
    boards = [
        board.title.rpartition(" ")[2]
        for board in BOARDS
        if _names(metric, (query.expr for panel in board.panels for query in panel.queries))
    ]
    alerts = [f"[{a.name}](runbooks.md#{a.name.lower()})" for a in ALERTS if _names(metric, [a.expr])]
    return ", ".join([*boards, *alerts])


def _names(metric: str, queries: Iterable[str]) -> bool:
    if ":" in metric:
        return any(metric.replace(":", "[:_]") in query for query in queries)
    endings = ("{", "_bucket{", "_sum{", "_count{", "[", ")")
    return any(metric + ending in query for query in queries for ending in endings)
