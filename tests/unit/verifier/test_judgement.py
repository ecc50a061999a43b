"""A verdict out of the results of tests."""

import pytest

from services.common.verdict import CaseResult, Outcome
from services.verifier.judgement import summarize


def results(*outcomes: Outcome) -> list[CaseResult]:
    return [CaseResult(outcome, f"reason {number}", 1.0, 0.5) for number, outcome in enumerate(outcomes, start=1)]


@pytest.mark.parametrize(
    ("outcomes", "count", "outcome", "reason"),
    [
        ([Outcome.CORRECT] * 3, 3, Outcome.CORRECT, "passed 3 cases"),
        ([Outcome.CORRECT, Outcome.WRONG], 3, Outcome.WRONG, "case 2 of 3: reason 2"),
        ([Outcome.WRONG], 1, Outcome.WRONG, "case 1 of 1: reason 1"),
        ([Outcome.CORRECT, Outcome.TIMEOUT, Outcome.WRONG], 3, Outcome.TIMEOUT, "case 2 of 3: reason 2; 1 of 3 pass"),
        # What is not known hides no failure, and no failure is made up of it.
        ([Outcome.INFRA_ERROR, Outcome.CORRECT, Outcome.WRONG], 3, Outcome.WRONG, "case 3 of 3: reason 3; 1 of 3 pass"),
        ([Outcome.INFRA_ERROR, Outcome.CORRECT], 2, Outcome.INFRA_ERROR, "case 1 of 2: reason 1; 1 of 2 pass"),
    ],
)
def test_the_first_failure_decides(outcomes: list[Outcome], count: int, outcome: Outcome, reason: str) -> None:
    judgement = summarize(results(*outcomes), count)
    assert (judgement.outcome, judgement.reason) == (outcome, reason)
    assert [case.outcome for case in judgement.cases] == outcomes
