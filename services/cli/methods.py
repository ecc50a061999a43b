"""The two ways of training that the demo compares, as changes to one configuration."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

CHAINS_OF_EQUAL_TOKENS = 19
"""Independent chains that decode as many tokens as one (6, 2, 1, 2) tree.

Measured on the demo's task: 844 tokens a tree against 43.4 a chain, which is 19.4 chains. The paper compares the same
tree with 16 chains (section 4.1); how many are equal depends on where in its responses a policy forks."""


class Method(Enum):
    """How responses are searched and rewarded."""

    TREERL = "treerl"
    """Trees of (6, 2, 1, 2) with a reward for every segment."""

    CHAINRL = "chainrl"
    """Independent chains with leave-one-out advantages, at the same number of decoded tokens."""


TRAINER_CHANGES: Mapping[Method, Mapping[str, Any]] = {
    Method.TREERL: {},
    Method.CHAINRL: {"advantage": "rloo", "search": {"chains": CHAINS_OF_EQUAL_TOKENS, "forks": 0}},
}
"""What each method changes in the `[trainer]` table of the demo's configuration."""
