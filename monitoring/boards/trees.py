"""Where trees fork, what the forks are worth, and what sampling them costs."""

from monitoring.panels import Board, Look, Panel, Query, Row, Unit
from monitoring.promql import latest, mean, quantile, rate, share
from services.common import metrics

_FORKS = Row(
    "Where trees fork",
    (
        Panel(
            "Fork tokens",
            "What kind of token is forked. Healthy: mostly words and operators, where reasoning turns; mostly digits "
            "or punctuation says that forks repeat arithmetic or formatting: see docs/forks.md.",
            (Query(share(metrics.FORK_TOKENS, "token_class"), "{{token_class}}"),),
            Unit.SHARE,
            Look.STACKED,
        ),
        Panel(
            "Fork depth",
            "Position of a fork in its response, in tokens: a tenth, half and nine tenths of the forks lie below. "
            "Healthy: spread over the response; all near 0 shares nothing, all near the end explores nothing.",
            tuple(
                Query(quantile(q, metrics.FORK_INDEX), label) for q, label in ((0.1, "p10"), (0.5, "p50"), (0.9, "p90"))
            ),
        ),
        Panel(
            "Surprisal of forked tokens",
            "Nats. Healthy: above the policy's mean entropy, since the least likely tokens are forked; equal to it, "
            "the choice is no better than random.",
            (
                Query(quantile(0.5, metrics.FORK_SURPRISAL), "p50"),
                Query(mean(metrics.FORK_SURPRISAL), "mean"),
            ),
        ),
    ),
)

_VALUES = Row(
    "What forks are worth",
    (
        Panel(
            "V by depth",
            "Mean V(s) of the last step's segments, by the number of forks above them. Healthy: near the pass rate at "
            "every depth; deeper segments far below it mean that forks ruin good beginnings.",
            (Query(latest(metrics.SEGMENT_VALUE, "depth"), "depth {{depth}}"),),
            Unit.SHARE,
        ),
        Panel(
            "Variance of the advantages",
            "Of GA(s) = V(s) - V(root) and LA(s) = V(s) - V(parent). Healthy: both well above 0. LA near 0 means that "
            "forks do not change the outcome: process rewards carry no more than outcome rewards.",
            (
                Query(latest(metrics.GA_VARIANCE), "GA"),
                Query(latest(metrics.LA_VARIANCE), "LA"),
            ),
        ),
        Panel(
            "Trees without a signal",
            "Share of trees whose leaves all got one reward. Healthy: below 0.5.",
            (Query(latest(metrics.ZERO_VARIANCE_SHARE)),),
            Unit.SHARE,
        ),
        Panel(
            "Different answers in a tree",
            "Mean over trees. Healthy: above 2. Near 1 the leaves of a tree agree, rightly or wrongly, and nothing is "
            "learned from them.",
            (Query(latest(metrics.DISTINCT_ANSWERS)),),
        ),
    ),
)

_COST = Row(
    "What sampling costs",
    (
        Panel(
            "Leaves and trees",
            "Sampled a second, over all samplers. Healthy: steady while sampling; the gaps are training.",
            (
                Query(rate(metrics.SAMPLED_LEAVES), "leaves"),
                Query(rate(metrics.SAMPLED_TREES), "trees"),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Decoded tokens",
            "Tokens sampled a second, over all samplers. Healthy: near what `treerl bench sampler` shows.",
            (Query(rate(metrics.DECODED_TOKENS)),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Tokens computed again by a fork",
            "Tokens of a fork's prefix that were not in the prefix cache. Healthy: below one cache block, 32 tokens on "
            "a CPU and 16 on a GPU. More means that the cache is too small: raise its memory or lower trees_in_flight.",
            (
                Query(mean(metrics.FORK_PREFILLED), "mean"),
                Query(quantile(0.9, metrics.FORK_PREFILLED), "p90"),
            ),
        ),
        Panel(
            "Time of a tree",
            "Seconds from a tree's first request to its last token. Healthy: the longest response's time, about twice "
            "it with one round of forks.",
            (
                Query(quantile(0.5, metrics.TREE_SECONDS), "p50"),
                Query(quantile(0.95, metrics.TREE_SECONDS), "p95"),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Shortened prompts",
            "Prompts a second whose text was cut to fit. Healthy: 0.",
            (Query(rate(metrics.SHORTENED_PROMPTS)),),
            Unit.PER_SECOND,
        ),
    ),
)

TREES = Board(
    "treerl-trees",
    "TreeRL / Trees",
    "Where trees fork, what the forks are worth, and what sampling them costs.",
    (_FORKS, _VALUES, _COST),
)
