"""What the verifier finds, how fast, and how safely."""

from monitoring.panels import Board, Look, Panel, Query, Row, Unit
from monitoring.promql import RUN, latest, or_zero, quantile, rate, series, share, total
from services.common import metrics
from services.common.streams import TREES

_FINDINGS = Row(
    "Findings",
    (
        Panel(
            "Verdicts",
            "Share of each outcome. Healthy: CORRECT and WRONG make up most; UNPARSED falls as the policy learns the "
            "format; INFRA_ERROR is 0.",
            (Query(share(metrics.VERDICTS, "outcome"), "{{outcome}}"),),
            Unit.SHARE,
            Look.STACKED,
        ),
        Panel(
            "Verdicts a second",
            "By domain, over all verifiers. Healthy: as many as leaves are sampled.",
            (Query(rate(metrics.VERDICTS, "domain"), "{{domain}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Judgements kept",
            "Judgements asked for a second: hit was known from before, shared waited for one under way, miss had to be "
            "made. Healthy: many hits once the policy repeats its answers.",
            (Query(or_zero(rate(metrics.CACHED_JUDGEMENTS, "result")), "{{result}}"),),
            Unit.PER_SECOND,
            Look.STACKED,
        ),
    ),
)

_SPEED = Row(
    "Speed",
    (
        Panel(
            "Queue",
            "Trees that no verifier has taken, and gradings under way. Healthy: the first is near 0; where it grows, "
            "add verifiers.",
            (
                Query(latest(metrics.STREAM_WAITING, matchers=f'stream="{TREES}"'), "trees waiting"),
                Query(total(metrics.GRADINGS_IN_FLIGHT), "gradings"),
            ),
        ),
        Panel(
            "Time of a grading",
            "Seconds, the wait for a worker included. Healthy: below 0.1 for mathematics, near the tests' own time for "
            "programs.",
            (
                Query(quantile(0.5, metrics.GRADING_SECONDS, "domain"), "{{domain}} p50"),
                Query(quantile(0.95, metrics.GRADING_SECONDS, "domain"), "{{domain}} p95"),
            ),
            Unit.SECONDS,
        ),
    ),
)

_SAFETY = Row(
    "Safety",
    (
        Panel(
            "Isolation",
            "Sandbox layers that hold on the weakest verifier: 1 rlimits, 2 Landlock, 3 seccomp, 4 namespaces. "
            "Healthy: 3 or 4.",
            (Query(f"min by ({RUN}) ({series(metrics.ISOLATION_LEVEL)})"),),
        ),
        Panel(
            "Programs killed",
            "A second, by the limit that they broke. Healthy: few; a rise means a policy that loops or floods. starved "
            "means too many tests for the cores.",
            (Query(or_zero(rate(metrics.CHILD_KILLS, "cause")), "{{cause}}"),),
            Unit.PER_SECOND,
            Look.STACKED,
        ),
        Panel(
            "Graders replaced",
            "Math workers and sandboxes replaced a second, by cause. Healthy: a few timeouts of math workers, no lost "
            "sandbox, no crash.",
            (Query(or_zero(rate(metrics.GRADER_RESTARTS, "kind", "cause")), "{{kind}} {{cause}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Dead letters",
            "Entries of the run that were given up. Healthy: 0.",
            (Query(latest(metrics.DEAD_LETTERS)),),
        ),
    ),
)

VERIFIER = Board(
    "treerl-verifier",
    "TreeRL / Verifier",
    "What the verifier finds, how fast, and how safely.",
    (_FINDINGS, _SPEED, _SAFETY),
)
