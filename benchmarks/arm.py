"""One arm of the comparison: the trees of one search at every prompt, and chains at the tokens of each tree."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Final

from benchmarks.equal_tokens import Finding, Leaves, chains_finding, tree_finding
from services.cli.bootstrap import mean_interval

COMPARED: Final = ("pass_rate", "leaf_accuracy", "distinct_answers")


@dataclass(frozen=True, slots=True)
class Arm:
    """What was found at each prompt, on average over its trees."""

    trees: Sequence[Finding]
    chains: Sequence[Finding]

    @classmethod
    def of(cls, forests: Sequence[Sequence[Leaves]], pools: Sequence[Leaves]) -> "Arm":
        """Trees and a pool of chains for each prompt; a prompt counts once, however many trees it has."""
        return cls(
            trees=[_mean([tree_finding(tree) for tree in forest]) for forest in forests],
            chains=[
                _mean([chains_finding(pool, tree.decoded_tokens) for tree in forest])
                for forest, pool in zip(forests, pools, strict=True)
            ],
        )

    def differences(self, name: str) -> list[float]:
        """Trees less chains at each prompt, in the figure of that name."""
        return [getattr(t, name) - getattr(c, name) for t, c in zip(self.trees, self.chains, strict=True)]

    def figures(self, random: "Arm") -> dict[str, float]:
        """Means over prompts, and differences with the ends of their 95 % intervals.

        Args:
            random: the same search with random forks. Its trees take other numbers of tokens, so what is compared is by
                how much each beats chains at its own; left out where this is that arm.
        """
        figures: dict[str, float] = {}
        for name in COMPARED:
            figures |= self._means(name)
            figures |= _with_interval(f"{name}_difference", self.differences(name))
            if self is not random:
                gains = zip(self.differences(name), random.differences(name), strict=True)
                figures |= _with_interval(f"{name}_difference_to_random", [own - other for own, other in gains])
        return figures | self._means("leaves") | self._means("decoded_tokens")

    def _means(self, name: str) -> dict[str, float]:
        return {
            f"{name}_eptree": fmean(getattr(finding, name) for finding in self.trees),
            f"{name}_iid": fmean(getattr(finding, name) for finding in self.chains),
        }


def _mean(findings: Sequence[Finding]) -> Finding:
    return Finding(*map(fmean, zip(*map(astuple, findings), strict=True)))


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    interval = mean_interval(values)
    return {name: fmean(values), f"{name}_low": interval.low, f"{name}_high": interval.high}
