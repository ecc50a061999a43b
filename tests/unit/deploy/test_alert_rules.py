"""Every alert against series that it must see and series that it must not, by promtool.

Not covered: who is told of an alert.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.__main__ import ROOT
from monitoring.alerts import ALERTS

RULES = ROOT / "docker" / "prometheus" / "rules" / "treerl.yaml"
OF_RUN = 'namespace="ml",run="a"'
OF_POD = f'{OF_RUN},instance="sampler-0"'

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on the path: make deploy-tools"
)


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, a value a minute, and the minute at which is looked."""

    alert: str
    minute: int
    wrong: dict[str, str]
    healthy: dict[str, str]


CASES = (
    Case(
        "TreerlRunStalled",
        40,
        # the last step ended at minute 0; a step takes a minute
        {
            f"treerl_step_timestamp_seconds{{{OF_RUN}}}": "0x60",
            f'treerl_step_seconds{{{OF_RUN},phase="step"}}': "60x60",
            f"treerl_run_state{{{OF_RUN}}}": "2x60",
        },
        # steps of a quarter of an hour each
        {
            f"treerl_step_timestamp_seconds{{{OF_RUN}}}": "0x60",
            f'treerl_step_seconds{{{OF_RUN},phase="step"}}': "900x60",
            f"treerl_run_state{{{OF_RUN}}}": "2x60",
        },
    ),
    Case(
        "TreerlSamplerStale",
        20,
        {f"treerl_step{{{OF_RUN}}}": "7x30", f"treerl_sampler_policy_version{{{OF_POD}}}": "5x30"},
        {f"treerl_step{{{OF_RUN}}}": "7x30", f"treerl_sampler_policy_version{{{OF_POD}}}": "6x30"},
    ),
    Case(
        "TreerlCanaryWrong",
        10,
        {f'treerl_reloads_total{{{OF_POD},result="wrong canary"}}': "0x5 1x20"},
        {
            f'treerl_reloads_total{{{OF_POD},result="wrong canary"}}': "0x30",
            f'treerl_reloads_total{{{OF_POD},result="loaded"}}': "0+1x30",
        },
    ),
    Case(
        "TreerlMismatchHigh",
        100,
        {f"treerl_mismatch_mean_abs_logprob_diff_nats{{{OF_RUN}}}": "0.01x95 0.06x20"},
        {f"treerl_mismatch_mean_abs_logprob_diff_nats{{{OF_RUN}}}": "0.01x95 0.02x20"},
    ),
    Case(
        "TreerlGraderFails",
        30,
        {
            f'treerl_verdicts_total{{{OF_RUN},outcome="INFRA_ERROR"}}': "0+2x60",
            f'treerl_verdicts_total{{{OF_RUN},outcome="CORRECT"}}': "0+98x60",
        },
        {
            f'treerl_verdicts_total{{{OF_RUN},outcome="INFRA_ERROR"}}': "0+1x60",
            f'treerl_verdicts_total{{{OF_RUN},outcome="CORRECT"}}': "0+199x60",
        },
    ),
    Case(
        "TreerlDeadLetters",
        40,
        {f"treerl_dead_letters{{{OF_POD}}}": "0x30 1x20"},
        {f"treerl_dead_letters{{{OF_POD}}}": "3x60"},
    ),
    Case(
        "TreerlQueueOld",
        40,
        {f'treerl_stream_oldest_entry_seconds{{{OF_POD},stream="trees"}}': "0+60x60"},
        # graded trees stay until a checkpoint covers them
        {f'treerl_stream_oldest_entry_seconds{{{OF_POD},stream="graded"}}': "0+60x60"},
    ),
    Case(
        "TreerlVerifierNotIsolated",
        10,
        {f"treerl_isolation_level{{{OF_POD}}}": "2x20"},
        {f"treerl_isolation_level{{{OF_POD}}}": "0x2 3x20"},
    ),
    Case(
        "TreerlTrainerNotCheckpointing",
        40,
        {
            f"treerl_step{{{OF_RUN}}}": "0+1x60",
            f"treerl_checkpoint_step{{{OF_RUN}}}": "10x60",
            f"treerl_checkpoint_every_steps{{{OF_RUN}}}": "10x60",
        },
        {
            f"treerl_step{{{OF_RUN}}}": "0+1x60",
            f"treerl_checkpoint_step{{{OF_RUN}}}": "30x60",
            f"treerl_checkpoint_every_steps{{{OF_RUN}}}": "10x60",
        },
    ),
)


def promtool(folder: Path, series: dict[str, str], alert: str, minute: int, firing: bool) -> str:
    """What promtool has to say, empty if the alert fires or not as it should."""
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing",run="a",namespace="ml"}})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    result = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    return "" if result.returncode == 0 else result.stdout + result.stderr


@needs_promtool
def test_prometheus_reads_the_rules() -> None:
    result = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_where_something_is_wrong(case: Case, tmp_path: Path) -> None:
    assert promtool(tmp_path, case.wrong, case.alert, case.minute, firing=True) == ""


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_is_silent_where_all_is_well(case: Case, tmp_path: Path) -> None:
    assert promtool(tmp_path, case.healthy, case.alert, case.minute, firing=False) == ""


@needs_promtool
@pytest.mark.parametrize("state", [1, 3, 4, 5])
def test_a_run_that_is_not_to_run_does_not_stall(state: int, tmp_path: Path) -> None:
    (case,) = [case for case in CASES if case.alert == "TreerlRunStalled"]
    series = {**case.wrong, f"treerl_run_state{{{OF_RUN}}}": f"{state}x60"}
    assert promtool(tmp_path, series, case.alert, case.minute, firing=False) == ""


def test_every_alert_has_a_case() -> None:
    assert [case.alert for case in CASES] == [alert.name for alert in ALERTS]
