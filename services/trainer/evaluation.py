"""Greedy answers to held-out problems: one chain a problem, through the same samplers and verifiers as training."""

from collections.abc import Sequence

from services.common.problem import Problem
from services.common.tree import SearchParameters, TreeRequest
from services.trainer.advantages import leaf_rewards
from services.trainer.records import CategoryAccuracy, Evaluation
from services.trainer.rollouts import Rollout, decoded_tokens
from services.trainer.settings import TrainerSettings


def evaluation_requests(problems: Sequence[Problem], settings: TrainerSettings, version: int) -> list[TreeRequest]:
    """Requests for the answers of a version of the weights."""
    sampling = settings.sampling.greedy_parameters()
    return [
        TreeRequest(f"evaluation-{version:05d}/{index}", problem, SearchParameters(chains=1), sampling, version)
        for index, problem in enumerate(problems)
    ]


def evaluate(version: int, rollout: Rollout) -> Evaluation:
    """Count the correct answers; one whose verdict is unknown counts as if it had not been asked."""
    rewards: dict[str, list[float]] = {}
    for tree in rollout.trees:
        category = tree.problem.category or tree.problem.domain.value
        rewards.setdefault(category, []).extend(leaf_rewards(tree).values())
    categories = tuple(
        CategoryAccuracy(category, len(of_category), round(sum(of_category)))
        for category, of_category in sorted(rewards.items())
    )
    problems = sum(category.problems for category in categories)
    correct = sum(category.correct for category in categories)
    return Evaluation(
        policy_version=version,
        problems=problems,
        accuracy=correct / problems if problems else 0.0,
        categories=categories,
        wall_s=rollout.wait_s,
        decoded_tokens=decoded_tokens(rollout.trees),
    )
