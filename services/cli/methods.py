"""Ways of training as changes to one configuration: the loop, the loss and the search are the same code for all."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

CHAINS_OF_EQUAL_TOKENS = 19
"""Independent chains that decode as many tokens as one (6, 2, 1, 2) tree.

Measured on the demo's task: 844 tokens a tree against 43.4 a chain, which is 19.4 chains. The paper compares the same
tree with 16 chains (section 4.1); how many are equal depends on where in its responses a policy forks."""


class Method(Enum):
    """How responses are searched, rewarded and learned from."""

    TREERL = "treerl"
    """Trees of (6, 2, 1, 2) with a reward for every segment."""

    CHAINRL = "chainrl"
    """Independent chains with leave-one-out advantages, at the same number of decoded tokens."""

    GRPO = "grpo"
    """The same chains with GRPO's loss (Shao et al. 2024, arXiv 2402.03300): advantages over their deviation, every
    response alike, and a KL penalty."""

    DAPO = "dapo"
    """The same chains with DAPO's loss (Yu et al. 2025, arXiv 2503.14476): GRPO's advantages, every token alike,
    clip-higher, no KL penalty. Its dynamic sampling (`uniform_trees = "replace"`) is left off, because it takes more
    tokens. Not covered: its penalty on overlong responses."""


_CHAINS: Mapping[str, Any] = {"chains": CHAINS_OF_EQUAL_TOKENS, "forks": 0}

TRAINER_CHANGES: Mapping[Method, Mapping[str, Any]] = {
    Method.TREERL: {},
    Method.CHAINRL: {"advantage": "rloo", "search": _CHAINS},
    Method.GRPO: {
        "advantage": "grpo",
        "search": _CHAINS,
        "loss_mean": "sequence",
        "clip_low": 0.8,
        "clip_high": 1.2,
        "kl_coefficient": 0.04,
    },
    Method.DAPO: {"advantage": "grpo", "search": _CHAINS, "loss_mean": "token", "clip_low": 0.8, "clip_high": 1.28},
}
"""What each method changes in the `[trainer]` table of the demo's configuration."""
