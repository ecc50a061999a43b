"""Queries of panels and alerts are made to answer, so that `make test-deploy` tells a wrong one from a quiet one."""

import pytest

from tests.deploy.queries import always_answering, without_variables


@pytest.mark.parametrize(
    ("alert", "answering"),
    [
        ("up == 0", "up == bool 0"),
        ('a{b!="<c>", d=~"e"} > 5 and f <= 1', 'a{b!="<c>", d=~"e"} > bool 5 and f <= bool 1'),
        ("a >bool 1", "a >bool 1"),
        ('a{b="unless"} > 1 unless c < 2', 'a{b="unless"} > bool 1 and c < bool 2'),
        ("sum by (x) (a) != on(x) b", "sum by (x) (a) != bool on(x) b"),
    ],
)
def test_an_alert_that_is_not_firing_answers_with_0(alert: str, answering: str) -> None:
    assert always_answering(alert) == answering


def test_a_panel_s_variables_stand_for_every_value() -> None:
    query = 'rate(a{run=~"$run", job=~"${job:regex}"}[$__rate_interval])'
    assert without_variables(query) == 'rate(a{run=~".*", job=~".*"}[1m])'
