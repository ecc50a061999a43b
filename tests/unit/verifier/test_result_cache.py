"""What is judged once, and what is judged anew."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from services.common.problem import Domain, Problem, StdinTests
from services.common.verdict import CaseResult, Cases, Limits, Outcome
from services.verifier.judgement import Judgement
from services.verifier.result_cache import ResultCache, question_key

RIGHT = Judgement(Outcome.CORRECT, "right")
LIMITS = Limits(1.0, 2, 3)
MATH = Problem("a", Domain.MATH, "?", answer="7")
CODE = Problem("b", Domain.CODE, "?", tests=StdinTests(cases=({"input": "1", "output": "2"},)))


def counting(judgement: Judgement, asked: list[Judgement]) -> Callable[[], Awaitable[Judgement]]:
    async def judge() -> Judgement:
        asked.append(judgement)
        await asyncio.sleep(0)
        return judgement

    return judge


async def times_judged(judgement: Judgement, *, max_bytes: int = 10_000) -> int:
    asked: list[Judgement] = []
    cache = ResultCache(max_bytes)
    for _ in range(3):
        assert await cache.get(b"key", counting(judgement, asked)) == judgement
    return len(asked)


@pytest.mark.parametrize(
    "outcome", [Outcome.CORRECT, Outcome.WRONG, Outcome.RUNTIME_ERROR, Outcome.OUTPUT_LIMIT, Outcome.UNPARSED]
)
async def test_what_depends_on_the_answer_alone_is_judged_once(outcome: Outcome) -> None:
    assert await times_judged(Judgement(outcome, "so")) == 1


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.MEMORY, Outcome.INFRA_ERROR])
async def test_what_depends_on_the_machine_is_judged_anew(outcome: Outcome) -> None:
    assert await times_judged(Judgement(outcome, "so")) == 3
    late = CaseResult(outcome, "late", 1.0, 1.0)
    assert await times_judged(Judgement(Outcome.WRONG, "so", (late,))) == 3


async def test_equal_questions_at_one_time_share_a_judging() -> None:
    asked: list[Judgement] = []
    cache = ResultCache(0)
    judge = counting(RIGHT, asked)
    assert await asyncio.gather(*(cache.get(b"key", judge) for _ in range(5))) == [RIGHT] * 5
    assert len(asked) == 1
    await cache.get(b"key", judge)  # no room to keep it
    assert len(asked) == 2


async def test_who_gives_up_takes_the_judgement_from_nobody_else() -> None:
    cache = ResultCache(0)
    end = asyncio.Event()
    ends: list[str] = []

    async def judge() -> Judgement:
        try:
            await end.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return RIGHT

    first, second, alone = (asyncio.create_task(cache.get(key, judge)) for key in (b"1", b"1", b"2"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    alone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ends == ["cancelled"]  # of the question that nobody asks any more
    end.set()
    assert await second == RIGHT


async def test_the_judgement_that_was_not_asked_for_longest_goes_first() -> None:
    asked: list[Judgement] = []
    cache = ResultCache(1200)  # two short ones
    for key in (b"a", b"b", b"a", b"c"):
        await cache.get(key, counting(RIGHT, asked))
    assert len(asked) == 3
    await cache.get(b"a", counting(RIGHT, asked))
    assert len(asked) == 3
    await cache.get(b"b", counting(RIGHT, asked))
    assert len(asked) == 4


async def test_a_judgement_larger_than_the_cache_is_not_kept() -> None:
    assert await times_judged(Judgement(Outcome.WRONG, "x" * 1000), max_bytes=1000) == 3


def test_the_key_is_what_a_judgement_depends_on() -> None:
    key = question_key(MATH, "7", LIMITS)
    assert question_key(replace(MATH, id="other", prompt="!", category="c"), "7", LIMITS) == key
    assert isinstance(CODE.tests, StdinTests)
    cpp, checked = (
        replace(CODE, tests=CODE.tests.model_copy(update=new)) for new in ({"language": "cpp"}, {"checker": "x"})
    )
    keys = [
        key,
        question_key(MATH, "8", LIMITS),
        question_key(replace(MATH, answer="8"), "7", LIMITS),
        question_key(MATH, "7", replace(LIMITS, wall_s=2.0)),
        question_key(MATH, "7", replace(LIMITS, cases=Cases.ALL)),
        *(question_key(problem, "7", LIMITS) for problem in (CODE, cpp, checked)),
    ]
    assert len(set(keys)) == len(keys)
    question_key(MATH, "\ud800", LIMITS)  # half a surrogate pair is an answer like any other
