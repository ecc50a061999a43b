"""What somebody should look at: alerts for Prometheus, each with an entry in docs/runbooks.md.

Thresholds are those of the settings' defaults, or follow what the run itself shows. Not covered: processes that are
gone, whose metrics are gone with them; whatever runs the containers tells of those.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from monitoring.promql import RUN, name
from services.common import metrics
from services.common.streams import PROMPTS, TREES
from services.common.verdict import Outcome
from services.verifier.sandbox.isolation import IsolationLevel


class Severity(Enum):
    """How soon: `critical` spoils or endangers something now, `warning` costs time."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        name: what it is called, also in the runbooks.
        expr: PromQL that gives a series for each thing that is wrong.
        lasting: for how long that must hold, such as `5m`.
        severity: how soon somebody should look.
        summary: one line, in which `{{ $labels.run }}` and `{{ $value }}` stand for themselves.
    """

    name: str
    expr: str
    lasting: str
    severity: Severity
    summary: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.severity.value},
            "annotations": {"summary": self.summary, "runbook": f"docs/runbooks.md#{self.name.lower()}"},
        }


def _of_run(gauge: Any, matchers: str = "") -> str:
    return f"max by ({RUN}) ({name(gauge)}{matchers})"


_SINCE_STEP = f"(time() - {_of_run(metrics.STEP_TIMESTAMP)})"
_WHOLE_STEP = _of_run(metrics.STEP_SECONDS, '{phase="step"}')
_MISMATCH = _of_run(metrics.MISMATCH_ABS)
_WRONG_CANARIES = f'increase({name(metrics.RELOADS)}{{result="wrong canary"}}[15m])'
_INFRA_ERRORS = f'sum by ({RUN}) (rate({name(metrics.VERDICTS)}{{outcome="{Outcome.INFRA_ERROR.name}"}}[15m]))'
_VERDICTS = f"sum by ({RUN}) (rate({name(metrics.VERDICTS)}[15m]))"

ALERTS = (
    Alert(
        "TreerlRunStalled",
        f"({_SINCE_STEP} > 900 unless {_SINCE_STEP} < 5 * {_WHOLE_STEP}) and {_of_run(metrics.RUN_STATE)} == 2",
        "1m",
        Severity.WARNING,
        "run {{ $labels.run }} has not ended a step for {{ $value | humanizeDuration }}",
    ),
    Alert(
        "TreerlSamplerStale",
        f"{_of_run(metrics.STEP)} - on ({RUN}) group_right () "
        f"max by ({RUN}, instance) ({name(metrics.SAMPLER_POLICY_VERSION)}) > 1",
        "5m",
        Severity.WARNING,
        "sampler {{ $labels.instance }} of run {{ $labels.run }} serves weights {{ $value }} steps old",
    ),
    Alert(
        "TreerlCanaryWrong",
        f"max by ({RUN}, instance) ({_WRONG_CANARIES}) > 0",
        "0m",
        Severity.CRITICAL,
        "sampler {{ $labels.instance }} of run {{ $labels.run }} loaded weights and computes something else",
    ),
    Alert(
        "TreerlMismatchHigh",
        f"{_MISMATCH} > 0.1 or ({_MISMATCH} > 0.001 and {_MISMATCH} > 3 * "
        f"max by ({RUN}) (avg_over_time({name(metrics.MISMATCH_ABS)}[6h])))",
        "0m",
        Severity.CRITICAL,
        "engine and trainer of run {{ $labels.run }} differ by {{ $value }} nats a token",
    ),
    Alert(
        "TreerlGraderFails",
        f"{_INFRA_ERRORS} / {_VERDICTS} > 0.01",
        "5m",
        Severity.WARNING,
        "{{ $value | humanizePercentage }} of the verdicts of run {{ $labels.run }} are INFRA_ERROR",
    ),
    Alert(
        "TreerlDeadLetters",
        f"max by ({RUN}) (delta({name(metrics.DEAD_LETTERS)}[30m])) > 0",
        "0m",
        Severity.WARNING,
        "entries of run {{ $labels.run }} were given up in the last half hour",
    ),
    Alert(
        "TreerlQueueOld",
        f'max by ({RUN}, stream) ({name(metrics.STREAM_OLDEST_SECONDS)}{{stream=~"{PROMPTS}|{TREES}"}}) > 1800',
        "5m",
        Severity.WARNING,
        "an entry of {{ $labels.stream }} of run {{ $labels.run }} has waited {{ $value | humanizeDuration }}",
    ),
    Alert(
        "TreerlVerifierNotIsolated",
        f"min by ({RUN}, instance) ({name(metrics.ISOLATION_LEVEL)}) < {IsolationLevel.SECCOMP.value}",
        "5m",
        Severity.CRITICAL,
        "verifier {{ $labels.instance }} of run {{ $labels.run }} runs programs at isolation level {{ $value }}",
    ),
    Alert(
        "TreerlTrainerNotCheckpointing",
        f"{_of_run(metrics.STEP)} - {_of_run(metrics.CHECKPOINT_STEP)} > 2 * {_of_run(metrics.CHECKPOINT_EVERY)}",
        "5m",
        Severity.WARNING,
        "{{ $value }} steps of run {{ $labels.run }} are in no checkpoint",
    ),
)


def rules() -> str:
    """All alerts as a file of rules."""
    document = {"groups": [{"name": "treerl", "rules": [alert.rule() for alert in ALERTS]}]}
    header = "# Made by `python -m monitoring` from monitoring/alerts.py.\n# yamllint disable rule:line-length\n"
    return header + yaml.dump(document, Dumper=_IndentedLists, sort_keys=False, width=1000)


class _IndentedLists(yaml.SafeDumper):
    """Writes the items of a list further in than its key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)
