"""Answers to held-out problems, greedy ones and drawn ones, through the same samplers and verifiers as training.

A response whose verdict is unknown counts as if it had not been asked for.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean

from services.common.pass_at_k import pass_at_k, told_ks
from services.common.problem import Problem
from services.common.tree import SearchParameters, Tree, TreeRequest
from services.trainer.advantages import leaf_rewards
from services.trainer.records import CategoryAccuracy, Evaluation
from services.trainer.rollouts import Rollout, decoded_tokens, derived_seed
from services.trainer.settings import TrainerSettings


def evaluation_requests(problems: Sequence[Problem], settings: TrainerSettings, version: int) -> list[TreeRequest]:
    """Requests for the answers of a version of the weights: each problem's greedy one, then each one's drawn ones."""
    greedy, samples = settings.sampling.greedy_parameters(), settings.heldout_samples
    ids = [f"evaluation-{version:05d}/{index}" for index in range(2 * len(problems))]
    requests = [
        TreeRequest(tree_id, problem, SearchParameters(chains=1), greedy, version)
        for tree_id, problem in zip(ids, problems, strict=False)
    ]
    if samples:
        requests += [
            TreeRequest(
                tree_id,
                problem,
                SearchParameters(chains=samples),
                settings.sampling.parameters(derived_seed(settings.seed, tree_id)),
                version,
            )
            for tree_id, problem in zip(ids[len(problems) :], problems, strict=True)
        ]
    return requests


def evaluate(version: int, rollout: Rollout) -> Evaluation:
    """Count the right answers."""
    greedy = _rewards_by_category(tree for tree in rollout.trees if tree.sampling.temperature == 0)
    drawn = _rewards_by_category(tree for tree in rollout.trees if tree.sampling.temperature > 0)
    categories = tuple(
        CategoryAccuracy(
            category,
            problems=sum(map(len, greedy[category])),
            correct=round(sum(map(sum, greedy[category]))),
            average=_average(drawn[category]),
        )
        for category in sorted(greedy.keys() | drawn.keys())
    )
    problems = sum(category.problems for category in categories)
    correct = sum(category.correct for category in categories)
    of_problems = list(chain.from_iterable(drawn.values()))
    return Evaluation(
        policy_version=version,
        problems=problems,
        accuracy=correct / problems if problems else 0.0,
        categories=categories,
        wall_s=rollout.wait_s,
        decoded_tokens=decoded_tokens(rollout.trees),
        average=_average(of_problems),
        pass_at=_pass_at(of_problems),
    )


def _rewards_by_category(trees: Iterable[Tree]) -> defaultdict[str, list[list[float]]]:
    """By category, the rewards of each problem of which any is known."""
    rewards: defaultdict[str, list[list[float]]] = defaultdict(list)
    for tree in trees:
        known = list(leaf_rewards(tree).values())
        if known:
            rewards[tree.problem.category or tree.problem.domain.value].append(known)
    return rewards


def _average(of_problems: Sequence[Sequence[float]]) -> float:
    return fmean(map(fmean, of_problems)) if of_problems else 0.0


def _pass_at(of_problems: Sequence[Sequence[float]]) -> dict[int, float]:
    most = max(map(len, of_problems), default=0)
    return {
        k: fmean(pass_at_k(len(rewards), round(sum(rewards)), k) for rewards in of_problems if len(rewards) >= k)
        for k in told_ks(most)
    }
