"""Graders of the user's own: Python functions that the settings allow, called in the sandbox.

A grader gets the whole response and the problem's gold, and decides. Its process has run no submitted code, so its word
counts; it is locked down all the same, because the response is hostile and a parser may have holes.
"""

from importlib.metadata import entry_points
from typing import Final

from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.problem import Problem
from services.common.verdict import Limits, Outcome
from services.verifier.findings import find_grade
from services.verifier.judgement import Judgement
from services.verifier.sandbox.execution import ExecutionLostError
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool
from services.verifier.settings import VerifierSettings

ENTRY_POINTS: Final = "treerl.graders"
"""The group in which installed packages announce graders."""


class CustomGraders:
    """One sandbox with a clean interpreter for each grader that requests may name."""

    def __init__(self, settings: VerifierSettings) -> None:
        """
        Raises:
            ConfigurationError: a grader that is allowed is not installed.
        """
        min_level = IsolationLevel[settings.min_isolation.upper()]
        self._sandboxes = {
            name: SandboxPool(
                1, settings.code_tests_per_worker, settings.code_memory_bytes, min_level, _function_of(name)
            )
            for name in settings.graders
        }

    @property
    def isolation_levels(self) -> list[IsolationLevel]:
        """Layers that hold, of each grader."""
        return [sandbox.level for sandbox in self._sandboxes.values()]

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the live zygotes."""
        return [process_id for sandbox in self._sandboxes.values() for process_id in sandbox.process_ids]

    async def start(self) -> None:
        """Import every grader.

        Raises:
            ConfigurationError: one cannot be imported, or not isolated.
        """
        for sandbox in self._sandboxes.values():
            await sandbox.start()

    async def close(self) -> None:
        """Kill the sandboxes."""
        for sandbox in self._sandboxes.values():
            await sandbox.close()

    def check(self, problem: Problem) -> None:
        """
        Raises:
            InvalidRequestError: the problem names a grader that is not allowed.
        """
        if problem.grader not in self._sandboxes:
            allowed = ", ".join(self._sandboxes) or "none"
            raise InvalidRequestError(
                f"problem {problem.id!r} names the grader {problem.grader!r}: the verifier's setting `graders` allows "
                f"{allowed}"
            )

    async def judge(self, problem: Problem, response: str, limits: Limits) -> Judgement:
        """Judge a response."""
        request = {"mode": "grader", "response": response, "gold": problem.gold}
        try:
            ended = await self._sandboxes[problem.grader].run(request, limits)
        except ExecutionLostError as error:
            return Judgement(Outcome.INFRA_ERROR, f"the grader failed: {error}")
        except RecursionError:
            return Judgement(Outcome.INFRA_ERROR, "the gold is nested too deeply to be handed to the grader")
        return Judgement(*find_grade(ended, limits))


def _function_of(name: str) -> str:
    """`module:function` of a grader; a name without a colon is looked up among the installed packages."""
    if ":" in name:
        return name
    installed = entry_points(group=ENTRY_POINTS)
    if name not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise ConfigurationError(
            f"the grader {name!r} is not installed: the entry points of group {ENTRY_POINTS!r} are {known}; "
            "install its package, or name it as module:function"
        )
    return installed[name].value
