"""PromQL made from metric objects, so that a renamed metric cannot leave a query behind.

Every query is within the run and namespace that a dashboard's reader chose. Not covered: operators between queries;
queries are strings and are joined as such.
"""

from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import Metric as Family

from services.common import metrics

Metric: TypeAlias = Counter | Gauge | Histogram | str
"""A metric of ours, or the full name of one that vLLM or the client library names."""

SCOPE = 'namespace=~"$namespace",run=~"$run"'
"""Labels that the scrape configuration sets; the dashboards' variables choose among their values, or all."""

RUN = "namespace, run"
"""What tells a run from all others: two namespaces may have one of the same name."""

WINDOW = "$__rate_interval"
"""Grafana's choice of what a rate is over: at least four scrapes."""


def name(metric: Metric) -> str:
    """Name of a metric's series; a histogram's are this with `_bucket`, `_sum` or `_count`."""
    if isinstance(metric, str):
        return metric
    family = family_of(metric)
    return f"{family.name}_total" if isinstance(metric, Counter) else family.name


def family_of(metric: Counter | Gauge | Histogram) -> Family:
    """A metric's name without endings, its type and its documentation."""
    return next(iter(metric.describe()))


def series(metric: Metric, matchers: str = "", suffix: str = "") -> str:
    """The chosen runs' series of a metric, such as `treerl_step{namespace=~"$namespace",run=~"$run"}`."""
    called, of_name = name(metric) + suffix, ""
    if ":" in called:
        # prometheus_client writes a colon as an underscore to a scraper that asks for OpenMetrics without UTF-8
        called, of_name = "", '__name__=~"' + called.replace(":", "[:_]") + '"'
    return f"{called}{{{','.join(part for part in (of_name, SCOPE, matchers) if part)}}}"


def latest(gauge: Gauge | str, *by: str, matchers: str = "") -> str:
    """The value of a gauge that one process of a run exposes, or the largest of several."""
    return f"max by ({_labels(by)}) ({series(gauge, matchers)})"


def total(gauge: Gauge | str, *by: str) -> str:
    """The sum of a gauge over the processes of a run."""
    return f"sum by ({_labels(by)}) ({series(gauge)})"


def rate(counter: Counter | str, *by: str, matchers: str = "") -> str:
    """How often a second."""
    return f"sum by ({_labels(by)}) (rate({series(counter, matchers)}[{WINDOW}]))"


def share(counter: Counter, label: str) -> str:
    """Share of each of a label's values in all that was counted."""
    everything = f"sum by ({RUN}) (rate({series(counter)}[{WINDOW}]))"
    return f"{rate(counter, label)} / ignoring({label}) group_left () ({everything} > 0)"


def ratio(part: Counter | str, whole: Counter | str) -> str:
    """One counter's rate over another's."""
    return f"{rate(part)} / ({rate(whole)} > 0)"


def quantile(share_below: float, histogram: Histogram, *by: str) -> str:
    """The value below which so large a share of the observations lies."""
    buckets = f"rate({series(histogram, suffix='_bucket')}[{WINDOW}])"
    return f"histogram_quantile({share_below}, sum by (le, {_labels(by)}) ({buckets}))"


def mean(histogram: Histogram, *by: str) -> str:
    """Mean of the observations."""
    of = {
        suffix: f"sum by ({_labels(by)}) (rate({series(histogram, suffix=suffix)}[{WINDOW}]))"
        for suffix in ("_sum", "_count")
    }
    return f"{of['_sum']} / ({of['_count']} > 0)"


def or_zero(query: str) -> str:
    """What a query gives, and 0 for runs of which it gives nothing, because nothing of the kind happened yet."""
    return f"{query} or on ({RUN}) 0 * sum by ({RUN}) ({series(metrics.CALLS_WAITING)})"


def process(measure: str) -> str:
    """Series that the client library gives every process, of ours alone."""
    return f"{measure} and on (job, instance) {series(metrics.CALLS_WAITING)}"


def _labels(by: tuple[str, ...]) -> str:
    return ", ".join((RUN, *by))
