"""Judges math answers, in worker processes that can be killed."""

from dataclasses import replace

from services.common.verdict import Limits, Outcome
from services.verifier.judgement import Judgement
from services.verifier.math_pool import MathPool
from services.verifier.result_comparison import shorten


class MathGrader:
    """Finds and compares answers; every text of a response is parsed in a worker."""

    def __init__(self, pool: MathPool) -> None:
        self._pool = pool

    async def find_answer(self, response: str, limits: Limits) -> tuple[str | None, Limits]:
        """The final answer of a response, None if it gives none, and what is left of the limits to judge it.

        Raises:
            MathFailedError: it cannot be known.
        """
        reply = await self._pool.call({"response": response}, limits.wall_s)
        return reply["answer"], replace(limits, wall_s=max(0.0, limits.wall_s - reply["took_s"]))

    async def judge(self, answer: str, gold: str, limits: Limits) -> Judgement:
        """Judge an answer.

        Raises:
            MathFailedError: it cannot be compared.
        """
        reply = await self._pool.call({"gold": gold, "answer": answer}, limits.wall_s)
        if reply["equivalent"]:
            return Judgement(Outcome.CORRECT, f"{shorten(answer)} equals {shorten(gold)}")
        return Judgement(Outcome.WRONG, f"expected {shorten(gold)}, got {shorten(answer)}")
