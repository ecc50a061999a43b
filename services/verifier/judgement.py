"""What was found about one answer, out of what was found in each test. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from services.common.verdict import CaseResult, Outcome


class Judgement(NamedTuple):
    """An outcome, why, and the results of the tests that were run."""

    outcome: Outcome
    reason: str
    cases: tuple[CaseResult, ...] = ()


def summarize(results: Sequence[CaseResult], count: int) -> Judgement:
    """Judge by the results of the first of `count` tests, perhaps of all: the first failure decides.

    A test of which nothing is known decides only where no other failed.
    """
    failed = [number for number, result in enumerate(results) if result.outcome is not Outcome.CORRECT]
    if not failed:
        return Judgement(Outcome.CORRECT, f"passed {count} cases", tuple(results))
    number = min(failed, key=lambda number: results[number].outcome is Outcome.INFRA_ERROR)
    decisive = results[number]
    passed = f"; {count - len(failed)} of {count} pass" if len(results) == count > 1 else ""
    return Judgement(decisive.outcome, f"case {number + 1} of {count}: {decisive.reason}{passed}", tuple(results))
