"""The grader: any problem, any response, always a verdict."""

import asyncio
import time
from dataclasses import replace
from typing import Final

from services.common import metrics
from services.common.errors import InvalidRequestError
from services.common.problem import Domain, Problem, StdinTests
from services.common.tree import Tree
from services.common.verdict import Cases, Limits, Outcome, Verdict
from services.verifier.code_extraction import extract_program
from services.verifier.code_grader import CodeGrader
from services.verifier.custom_graders import CustomGraders
from services.verifier.judgement import Judgement
from services.verifier.languages import LANGUAGES
from services.verifier.math_grader import MathGrader
from services.verifier.math_policy import MathPolicy
from services.verifier.math_pool import MathFailedError, MathPool
from services.verifier.result_cache import ResultCache, question_key
from services.verifier.result_comparison import one_line
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool
from services.verifier.settings import VerifierSettings

MIN_LIMITS: Final = Limits(wall_s=0.1, memory_bytes=64 << 20, output_bytes=1)
MAX_LIMITS: Final = Limits(wall_s=60.0, memory_bytes=4 << 30, output_bytes=64 << 20)
"""The least and the most that a request may ask for; with less memory no interpreter runs."""


class Grader:
    """Grades responses in math workers and sandboxes; never parses one in its own process.

    A response's time includes its wait for a free worker; its limits do not.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._math_limits = Limits(settings.math_timeout_s, settings.math_memory_bytes, 0)
        self._code_limits = Limits(
            settings.code_timeout_s,
            settings.code_memory_bytes,
            settings.code_output_bytes,
            Cases[settings.code_cases.upper()],
        )
        policy = MathPolicy(settings.math_units, settings.math_percent, settings.math_vectors)
        self._math_pool = MathPool(settings.math_workers, settings.math_memory_bytes, policy)
        self._math = MathGrader(self._math_pool)
        self._sandbox = SandboxPool(
            settings.code_workers,
            settings.code_tests_per_worker,
            settings.code_memory_bytes,
            IsolationLevel[settings.min_isolation.upper()],
        )
        self._code = CodeGrader(self._sandbox)
        self._custom = CustomGraders(settings)
        self._cache = ResultCache(settings.cache_bytes)
        self._in_flight = 0
        self._graded = 0

    @property
    def isolation_level(self) -> IsolationLevel:
        """Layers that hold for every program, and for every grader of the user's own."""
        return min([self._sandbox.level, *self._custom.isolation_levels])

    @property
    def in_flight(self) -> int:
        """Gradings under way."""
        return self._in_flight

    @property
    def graded(self) -> int:
        """Gradings done since the start."""
        return self._graded

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the live workers and zygotes."""
        return [*self._math_pool.process_ids, *self._sandbox.process_ids, *self._custom.process_ids]

    async def start(self) -> None:
        """Start workers and sandboxes, and prove that the sandbox holds.

        Raises:
            ConfigurationError: the machine does not allow the isolation asked for, workers do not start, or a grader
                of the user's own cannot be imported.
        """
        await self._sandbox.start()
        await self._custom.start()
        metrics.ISOLATION_LEVEL.set(self.isolation_level)
        for domain in Domain:  # 0 until there is one, so that a rate of failures exists and the first one counts in it
            metrics.VERDICTS.labels(domain.value, Outcome.INFRA_ERROR.name)
        await self._math_pool.start(self._sandbox.level)

    async def close(self) -> None:
        """Kill workers and sandboxes."""
        await self._math_pool.close()
        await self._custom.close()
        await self._sandbox.close()

    async def grade(self, problem: Problem, response: str, limits: Limits | None = None) -> Verdict:
        """Grade one response.

        Args:
            problem: with its gold answer or tests.
            response: the policy's whole response.
            limits: bounds; a zero, or None for all, means the default. A math worker's memory is set at its start and
                no request changes it.

        Raises:
            InvalidRequestError: the problem has no gold, or the limits are out of range.
        """
        return await self._grade(problem, response, self._limits(problem, limits))

    async def grade_tree(self, tree: Tree) -> Tree:
        """Grade every leaf of a tree; results of tests are not kept.

        Raises:
            InvalidRequestError: the problem has no gold.
        """
        limits = self._limits(tree.problem, None)
        verdicts = await asyncio.gather(
            *(self._grade(tree.problem, branch.response_text, limits) for branch in tree.branches)
        )
        return tree.with_verdicts([replace(verdict, cases=()) for verdict in verdicts])

    async def _grade(self, problem: Problem, response: str, limits: Limits) -> Verdict:
        started = time.perf_counter()
        self._in_flight += 1
        metrics.GRADINGS_IN_FLIGHT.set(self._in_flight)
        try:
            answer, (outcome, reason, cases) = await self._answer_and_judge(problem, response, limits)
        finally:
            self._in_flight -= 1
            metrics.GRADINGS_IN_FLIGHT.set(self._in_flight)
        wall_s = time.perf_counter() - started
        self._graded += 1
        metrics.VERDICTS.labels(problem.domain.value, outcome.name).inc()
        metrics.GRADING_SECONDS.labels(problem.domain.value).observe(wall_s)
        read = "" if answer is None or problem.domain is Domain.CUSTOM else answer
        return Verdict(outcome, one_line(reason), wall_s * 1000, read, cases)

    async def _answer_and_judge(self, problem: Problem, response: str, limits: Limits) -> tuple[str | None, Judgement]:
        """The answer that a response gives, if any, and a judgement, also where grading fails."""
        try:
            answer, limits_left = await self._read_answer(problem, response, limits)
        except MathFailedError as error:
            return None, Judgement(error.outcome, str(error))
        if answer is None:
            return None, Judgement(Outcome.UNPARSED, f"no {_wanted(problem)} found in the response")
        key = question_key(problem, answer, limits)
        return answer, await self._cache.get(key, lambda: self._judge(problem, answer, limits_left))

    async def _read_answer(self, problem: Problem, response: str, limits: Limits) -> tuple[str | None, Limits]:
        """The answer that a response gives, if any, and what is left of the limits to judge it."""
        match problem.domain:
            case Domain.MATH:
                return await self._math.find_answer(response, limits)
            case Domain.CODE:
                return extract_program(response, LANGUAGES[_language(problem)]), limits
            case Domain.CUSTOM:
                return response, limits

    async def _judge(self, problem: Problem, answer: str, limits: Limits) -> Judgement:
        if problem.tests is not None:
            return await self._code.judge(answer, problem.tests, limits)
        if problem.grader:
            return await self._custom.judge(problem, answer, limits)
        try:
            return await self._math.judge(answer, problem.answer or "", limits)
        except MathFailedError as error:
            return Judgement(error.outcome, str(error))

    def _check(self, problem: Problem) -> None:
        """
        Raises:
            InvalidRequestError: the problem cannot be graded here.
        """
        match problem.domain:
            case Domain.MATH if not (problem.answer or "").strip():
                raise InvalidRequestError(f"math problem {problem.id!r} has nothing to grade by: it needs an answer")
            case Domain.CODE if problem.tests is None:
                raise InvalidRequestError(f"code problem {problem.id!r} has nothing to grade by: it needs tests")
            case Domain.CODE if _language(problem) not in LANGUAGES:
                raise InvalidRequestError(
                    f"problem {problem.id!r} has language {_language(problem)!r}: expected {', '.join(LANGUAGES)}"
                )
            case Domain.CUSTOM:
                self._custom.check(problem)

    def _limits(self, problem: Problem, asked: Limits | None) -> Limits:
        self._check(problem)
        default = self._math_limits if problem.domain is Domain.MATH else self._code_limits
        if asked is None:
            return default
        for name in ("wall_s", "memory_bytes", "output_bytes"):
            value, least, most = (getattr(limits, name) for limits in (asked, MIN_LIMITS, MAX_LIMITS))
            if value != 0 and not least <= value <= most:
                raise InvalidRequestError(f"limits.{name} is {value}: expected {least} to {most}, or 0 for the default")
        return Limits(
            asked.wall_s or default.wall_s,
            asked.memory_bytes or default.memory_bytes,
            asked.output_bytes or default.output_bytes,
            asked.cases or default.cases,
        )


def _language(problem: Problem) -> str:
    return problem.tests.language if isinstance(problem.tests, StdinTests) else "python"


def _wanted(problem: Problem) -> str:
    """What a response should hold, for the reason of a verdict that it does not."""
    if problem.domain is Domain.MATH:
        return "answer, in \\boxed{…}, after 'the answer is' or as the last formula or number,"
    return f"program, in a block fenced as {_language(problem)},"
