"""What a tree found at one prompt, and what i.i.d. chains find at the same number of decoded tokens.

A pool of K chains stands for the policy. A tree that decoded D tokens is compared with n = D / m of the pool's chains,
m being their mean length: averaged over all subsets of n chains, the decoded tokens are D exactly. All subsets count
alike, so no chain is favoured for being short, as it would be if chains were taken until the tokens are spent and the
one that does not fit were dropped. No chain is cut: where n is not a whole number, subsets of the two sizes next to it
are mixed so that their mean size is n.

Not counted: prompt tokens, and prefix tokens that a fork computes again.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaves:
    """Graded responses to one prompt: the leaves of a tree, or a pool of chains.

    Attributes:
        answers: what each answers; None where there is no answer in it.
        correct: how many are right.
        decoded_tokens: what all of them took; a prefix that leaves share counts once.
    """

    answers: Sequence[str | None]
    correct: int
    decoded_tokens: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at one prompt, on average where chance is left.

    Attributes:
        pass_rate: probability that at least one leaf is right.
        leaf_accuracy: share of leaves that are right.
        distinct_answers: different answers among the leaves; no answer is none.
        leaves: number of leaves.
        decoded_tokens: tokens that they took.
    """

    pass_rate: float
    leaf_accuracy: float
    distinct_answers: float
    leaves: float
    decoded_tokens: float


def tree_finding(tree: Leaves) -> Finding:
    """What a tree found."""
    return Finding(
        pass_rate=float(tree.correct > 0),
        leaf_accuracy=tree.correct / len(tree.answers),
        distinct_answers=len(set(tree.answers) - {None}),
        leaves=len(tree.answers),
        decoded_tokens=tree.decoded_tokens,
    )


def chains_finding(pool: Leaves, decoded_tokens: int) -> Finding:
    """What chains of a pool find, on average over its subsets that take so many tokens on average.

    Raises:
        ValueError: the whole pool takes fewer tokens.
    """
    total = len(pool.answers)
    drawn = total * decoded_tokens / pool.decoded_tokens
    counts = Counter(answer for answer in pool.answers if answer is not None)
    return Finding(
        pass_rate=chance_of_any(pool.correct, total, drawn),
        leaf_accuracy=pool.correct / total,
        distinct_answers=math.fsum(chance_of_any(count, total, drawn) for count in counts.values()),
        leaves=drawn,
        decoded_tokens=decoded_tokens,
    )


def chance_of_any(matching: int, total: int, drawn: float) -> float:
    """Probability that one of `drawn` out of `total`, taken at random, is among the `matching` ones.

    1 - C(total - matching, drawn) / C(total, drawn): as in pass@k (Chen et al. 2021, arXiv 2107.03374, section 2.1),
    and, summed over kinds, the expected number of kinds (rarefaction; Hurlbert 1971, Ecology 52). Between whole numbers
    it is interpolated linearly.

    Raises:
        ValueError: `drawn` is not in [0, total].
    """
    if not 0 <= drawn <= total:
        raise ValueError(f"{drawn} drawn: expected between 0 and the {total} that there are")
    low = math.floor(drawn)

    def chance(number: int) -> float:
        return 1 - math.comb(total - matching, number) / math.comb(total, number)

    return chance(low) if low == drawn else chance(low) + (drawn - low) * (chance(low + 1) - chance(low))
