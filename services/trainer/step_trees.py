"""The trees that a step trains on: asked for ahead of it, and sorted out once they are graded.

With `max_policy_lag` k the prompts of step s + k are asked when step s begins, so that they are sampled while steps s
to s + k - 1 are trained. Trees are left out of training, and counted, where

* a token was sampled by weights more than k versions older than those that are trained: *stale*;
* all graded leaves got one reward and `uniform_trees` is `replace`: *uniform*. They teach nothing, and the step asks
  other prompts until it is full (dynamic sampling: DAPO, arXiv 2503.14476, section 3.2).

Everything follows from the seed and from the trees, so that a trainer that was killed asks for the same again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.common.errors import UnavailableError
from services.common.problem import Problem
from services.common.tree import Tree
from services.trainer.advantages import leaf_rewards
from services.trainer.dataset import Dataset
from services.trainer.rollouts import Rollout, Rollouts, derived_seed, step_requests
from services.trainer.settings import TrainerSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StepTrees:
    """What came for a step, in the order in which it was asked for.

    Attributes:
        trained: trees to train on.
        uniform: trees left out because all their leaves got one reward.
        stale: trees dropped because of old weights.
        rollouts: what the step asked at first, and its refills.
    """

    trained: tuple[Tree, ...]
    uniform: tuple[Tree, ...]
    stale: tuple[Tree, ...]
    rollouts: tuple[Rollout, ...]


async def ask_ahead(rollouts: Rollouts, dataset: Dataset, settings: TrainerSettings, step: int) -> None:
    """Ask for the trees of a step that is about to begin, and of those that may be sampled while it trains."""
    for ahead in range(step, min(step + settings.max_policy_lag, settings.steps) + 1):
        problems = dataset.problems_for_step(ahead, settings.prompts_per_step)
        await rollouts.request(step_requests(problems, settings, ahead))


async def collect_step(rollouts: Rollouts, dataset: Dataset, settings: TrainerSettings, step: int) -> StepTrees:
    """Wait for a step's trees, and refill it where they are to be replaced.

    Raises:
        UnavailableError: no tree came in time, or none that came can be trained on.
    """
    asked = dataset.problems_for_step(step, settings.prompts_per_step)
    requests = step_requests(asked, settings, step)
    came = [await rollouts.collect(requests)]
    trees = sort_out(came, settings, step)
    while settings.uniform_trees == "replace" and (missing := settings.prompts_per_step - len(trees.trained)):
        problems = refill_problems(dataset, settings, step, asked)[:missing]
        if len(came) > settings.max_refills or not problems:
            log.warning(
                "the step is not full: its prompts are too easy or too hard; raise max_refills, or add other problems",
                step=step,
                trees=len(trees.trained),
                uniform=len(trees.uniform),
                refills=len(came) - 1,
            )
            break
        requests = step_requests(problems, settings, step, refill=len(came))
        await rollouts.request(requests)
        asked += problems
        came.append(await rollouts.collect(requests))
        trees = sort_out(came, settings, step)
    if trees.stale:
        log.warning("trees of old weights dropped", step=step, trees=[tree.tree_id for tree in trees.stale])
    if not trees.trained:
        raise UnavailableError(_nothing_left(trees, settings, step))
    return trees


def sort_out(came: Sequence[Rollout], settings: TrainerSettings, step: int) -> StepTrees:
    """Decide which trees a step trains on."""
    trees = [tree for rollout in came for tree in rollout.trees]
    oldest_allowed = step - 1 - settings.max_policy_lag
    fates: dict[str, list[Tree]] = {"trained": [], "uniform": [], "stale": []}
    for tree in trees:
        if tree.oldest_version < oldest_allowed:
            fates["stale"].append(tree)
        elif settings.uniform_trees == "replace" and is_uniform(tree):
            fates["uniform"].append(tree)
        else:
            fates["trained"].append(tree)
    return StepTrees(tuple(fates["trained"]), tuple(fates["uniform"]), tuple(fates["stale"]), tuple(came))


def is_uniform(tree: Tree) -> bool:
    """Whether no two graded leaves of a tree differ in reward."""
    return len(set(leaf_rewards(tree).values())) <= 1


def refill_problems(dataset: Dataset, settings: TrainerSettings, step: int, asked: Sequence[Problem]) -> list[Problem]:
    """Problems that a step may still ask, in the order in which it should: those kept for it and not yet asked.

    They come from an order of their own, of which every step has its own part: what other steps ask does not depend on
    how many refills this one needs.
    """
    reserve = dataset.shuffled(derived_seed(settings.seed, "refills"))
    kept = reserve.problems_for_step(step, settings.prompts_per_step * settings.max_refills)
    taken = set(map(_identity, asked))
    return list({_identity(problem): problem for problem in kept if _identity(problem) not in taken}.values())


def _identity(problem: Problem) -> tuple[str, str]:
    return problem.id, problem.prompt  # ids are unique within a source alone


def _nothing_left(trees: StepTrees, settings: TrainerSettings, step: int) -> str:
    missing = [letter for rollout in trees.rollouts for letter in rollout.missing]
    fates = []
    if missing:
        fates.append(f"{len(missing)} were given up, the first because: {missing[0].reason}")
    if trees.stale:
        fates.append(f"{len(trees.stale)} are of weights older than max_policy_lag, {settings.max_policy_lag}, allows")
    if trees.uniform:
        fates.append(
            f"in {len(trees.uniform)} all leaves got one reward: add problems that are neither too easy nor too hard"
        )
    return f"step {step} has no tree to train on: {'; '.join(fates)}"
