"""Does forking find more than sampling anew? EPTree against i.i.d. chains at equal decoded tokens.

The question of the paper's figure 1 (left), and whether it matters where trees fork, put to the demo's policy: after
its supervised start and before any reinforcement it answers held-out problems of the demo, which guided no choice. Each
problem gets trees of several sizes, forked at the most surprising tokens, at those of the highest entropy and at random
ones, and one pool of chains; `equal_tokens.py` says how chains are matched to a tree's tokens.

The sizes were chosen on development problems from chains alone, before any tree was grown: at about the tokens of the
four sizes chains solved 53, 73, 88 and 97 % of them, so only the paper's own size is near the ceiling.

Not covered: other policies and tasks, and how the figures vary from one supervised start to another.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from benchmarks.arm import Arm
from benchmarks.equal_tokens import Leaves
from services.cli.warm_start import warm_started_policy
from services.common.errors import TreerlError
from services.common.problem import Problem, parse_problem
from services.common.tree import ForkSelection, SamplingParameters, SearchParameters, Tree, TreeRequest
from services.common.verdict import Outcome
from services.demo.problems import Split, generate_problems
from services.sampler.eptree import search
from services.sampler.growing_tree import derive_seed
from services.sampler.prompts import TokenizerCodec
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_engine import VllmEngine
from services.verifier.grading import Grader
from services.verifier.settings import VerifierSettings

SEED: Final = 0
PROMPTS: Final = 240
POOL: Final = SearchParameters(chains=40)
"""Chains of a prompt: about twice as many as the tokens of the largest tree pay for."""
PAPER: Final = SearchParameters(chains=6, forks=2, rounds=1, branches=2, selection=ForkSelection.SURPRISAL)
TREES_A_PROMPT: Final = {
    SearchParameters(chains=1, forks=1, rounds=1, branches=2): 4,
    SearchParameters(chains=2, forks=1, rounds=1, branches=2): 2,
    SearchParameters(chains=4, forks=1, rounds=1, branches=2): 2,
    PAPER: 1,
}
"""Sizes of trees; of the small ones, which are cheap and of which each finds little, there are several a prompt."""
SAMPLING: Final = SamplingParameters(temperature=1.2, top_p=0.95, max_tokens=64)
TREES_IN_FLIGHT: Final = 128
COLUMNS: Final = (
    *("search", "selection", "decoded_tokens_eptree", "pass_rate_eptree", "pass_rate_iid"),
    *("distinct_answers_eptree", "distinct_answers_iid"),
)
"""What a table shows of `points`; intervals and the rest are in the JSON."""


async def measure() -> dict[str, Any]:
    """Run the benchmark: 14 minutes of CPU time, and more where the demo's policy has to be trained first.

    Returns:
        Means over prompts, for the paper's search and, as `points`, for all of them. A `…_difference` is trees less
        chains at equal tokens; a `…_difference_to_random` is how much more that is than with random forks. Both have
        the ends of their 95 % intervals beside them.

    Raises:
        TreerlError: a grading failed, so what was found is unknown.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    console = Console(stderr=True)
    policy = await warm_started_policy(lambda text: console.print(f"teaching the demo's policy its habits: {text}"))
    problems = [parse_problem(row) for row in generate_problems(Split.HELDOUT, PROMPTS, SEED)]
    searches = [replace(size, selection=selection) for size in TREES_A_PROMPT for selection in ForkSelection]
    async with _sampler(policy) as sample:
        pools = await asyncio.gather(*(sample(problem, POOL, "pool") for problem in problems))
        arms = {
            parameters: await _arm(sample, problems, parameters, pools)
            for parameters in track(searches, "pass rate", console=console, disable=not console.is_terminal)
        }
    points = {
        parameters: arm.figures(random=arms[replace(parameters, selection=ForkSelection.RANDOM)])
        for parameters, arm in arms.items()
    }
    return {
        "prompts": PROMPTS,
        **points[PAPER],
        "points": [_name(parameters) | figures for parameters, figures in points.items()],
    }


Sample = Callable[[Problem, SearchParameters, object], Awaitable[Leaves]]
"""Grows and grades a tree for a problem; the last argument sets it apart from others for the same problem."""


@asynccontextmanager
async def _sampler(policy: Path) -> AsyncIterator[Sample]:
    settings = SamplerSettings(model=policy, max_model_tokens=256)
    engine = await VllmEngine.start(settings, policy, policy_version=0)
    prompts = TokenizerCodec(settings)
    grader = Grader(VerifierSettings())
    places = asyncio.Semaphore(TREES_IN_FLIGHT)

    async def sample(problem: Problem, parameters: SearchParameters, which: object) -> Leaves:
        sampling = replace(SAMPLING, seed=derive_seed(SEED, problem.id, which))
        async with places:
            tree = await search(engine, prompts, TreeRequest(problem.id, problem, parameters, sampling))
            return _leaves(await grader.grade_tree(tree))

    try:
        await grader.start()
        yield sample
    finally:
        await grader.close()
        engine.close()


def _leaves(graded: Tree) -> Leaves:
    verdicts = [branch.verdict for branch in graded.branches if branch.verdict is not None]
    outcomes = [verdict.outcome for verdict in verdicts]
    if Outcome.INFRA_ERROR in outcomes:
        raise TreerlError(f"a response to problem {graded.problem.id} could not be graded: see the log, and run again")
    return Leaves(
        answers=[verdict.answer or None for verdict in verdicts],
        correct=outcomes.count(Outcome.CORRECT),
        decoded_tokens=sum(len(branch.token_ids) for branch in graded.branches),
    )


async def _arm(
    sample: Sample, problems: Sequence[Problem], parameters: SearchParameters, pools: Sequence[Leaves]
) -> Arm:
    # The seed does not know how forks are selected: trees that differ in that alone fork the same chains.
    numbers = range(TREES_A_PROMPT[replace(parameters, selection=PAPER.selection)])
    forests = await asyncio.gather(
        *(asyncio.gather(*(sample(problem, parameters, number) for number in numbers)) for problem in problems)
    )
    return Arm.of(forests, pools)


def _name(parameters: SearchParameters) -> dict[str, Any]:
    size = (parameters.chains, parameters.forks, parameters.rounds, parameters.branches)
    return {"search": f"({','.join(map(str, size))})", "selection": parameters.selection.name.lower()}
