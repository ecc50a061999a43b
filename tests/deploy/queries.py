"""Every query that the dashboards and the alerts make, in the form in which it must return a series."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_STRINGS_AND_FILTERS = re.compile(
    r'"(?:[^"\\]|\\.)*"|\{[^}]*\}|(?P<comparison>==|!=|>=|<=|>|<)(?!\s*bool\b)|(?P<unless>\bunless\b)'
)
_INTERVALS = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "5m"}


def panel_queries(dashboards: Path) -> dict[str, str]:
    """Query of each panel's target, by dashboard, panel and target."""
    found = {}
    for file in sorted(dashboards.glob("*.json")):
        for panel in _panels(json.loads(file.read_text())):
            for target in panel.get("targets", []):
                name = f"{file.stem}/{panel.get('title', '?')}/{target.get('refId', '?')}"
                found[name] = without_variables(target["expr"])
    return found


def alert_queries(rules: Path) -> dict[str, str]:
    """Query of each alert and recording rule by its name; an alert's comparison yields 0 or 1 instead of nothing."""
    found = {}
    for file in sorted(rules.glob("*.yaml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                found[f"{file.stem}/{rule.get('alert') or rule['record']}"] = always_answering(rule["expr"])
    return found


def without_variables(query: str) -> str:
    """A panel's query with Grafana's intervals filled in, and any other variable standing for every value."""
    for variable, interval in _INTERVALS.items():
        query = query.replace(variable, interval)
    return re.sub(r"\$\{?\w+(?::\w+)?\}?", ".*", query)


def always_answering(query: str) -> str:
    """A query that says 0 where it would leave a series out, and needs what its `unless` would be quiet about."""

    def answering(found: re.Match[str]) -> str:
        if found["unless"]:
            return "and"
        return f"{found[0]} bool" if found["comparison"] else found[0]

    return _STRINGS_AND_FILTERS.sub(answering, query)


def _panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard.get("panels", []):
        yield panel
        yield from _panels(panel)
