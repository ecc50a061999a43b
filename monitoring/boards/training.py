"""Whether the policy learns, and whether what it learns from can be trusted."""

from monitoring.panels import Board, Look, Panel, Query, Row, Unit
from monitoring.promql import latest, rate
from services.common import metrics

_LEARNING = Row(
    "Learning",
    (
        Panel(
            "Pass rate",
            "Share of graded leaves that are correct, which is also the mean reward. Healthy: rises. Near 0 or 1 there "
            "is little to learn from: choose easier or harder problems.",
            (Query(latest(metrics.PASS_RATE)),),
            Unit.SHARE,
        ),
        Panel(
            "Held-out accuracy",
            "Greedy accuracy on problems that are not trained on. Healthy: rises with the pass rate. If the pass rate "
            "rises alone, the policy learns the training problems or a weakness of the grader.",
            (Query(latest(metrics.HELDOUT_ACCURACY)),),
            Unit.SHARE,
        ),
        Panel(
            "Prompts without a signal",
            "Share of prompts whose leaves all got one reward: every advantage in them is 0. Healthy: below 0.5.",
            (Query(latest(metrics.ZERO_VARIANCE_SHARE)),),
            Unit.SHARE,
        ),
        Panel(
            "Steps",
            "Steps done, and steps that a durable checkpoint covers. Healthy: the first rises, the second follows it.",
            (
                Query(latest(metrics.STEP), "done"),
                Query(latest(metrics.CHECKPOINT_STEP), "checkpointed"),
            ),
        ),
    ),
)

_UPDATES = Row(
    "Updates",
    (
        Panel(
            "Policy entropy",
            "Mean entropy at the trained tokens, in nats. Healthy: falls slowly. A fall to near 0 ends exploration: "
            "raise clip_high or the temperature.",
            (Query(latest(metrics.ENTROPY)),),
        ),
        Panel(
            "KL to the starting model",
            "k3 estimate, in nats; 0 unless kl_coefficient is set. Healthy: rises slowly, far below 1.",
            (Query(latest(metrics.REFERENCE_KL)),),
        ),
        Panel(
            "Clipped tokens",
            "Share of tokens whose importance ratio was clipped. Healthy: below 0.05; 0 with one minibatch a step.",
            (Query(latest(metrics.CLIP_FRACTION)),),
            Unit.SHARE,
        ),
        Panel(
            "Gradient norm",
            "Before it is scaled down to max_grad_norm. Healthy: steady; spikes that return mean a learning rate too "
            "high.",
            (Query(latest(metrics.GRAD_NORM)),),
        ),
        Panel(
            "Learning rate",
            "Of the last step. Healthy: as the schedule says.",
            (Query(latest(metrics.LEARNING_RATE)),),
        ),
        Panel(
            "Loss",
            "Policy-gradient loss. Its height says little; healthy is a bounded one.",
            (Query(latest(metrics.LOSS)),),
        ),
    ),
)

_TRUST = Row(
    "Engine against trainer",
    (
        Panel(
            "Mismatch",
            "Mean |engine - trainer| log-probability of the sampled tokens, in nats. Healthy: 0.00001 in fp32, about "
            "0.01 in bf16, flat. Near 0.2 a sampler serves stale weights.",
            (Query(latest(metrics.MISMATCH_ABS)),),
        ),
        Panel(
            "Mismatch KL",
            "k3 estimate of KL(engine || trainer), in nats. Healthy: below 0.001, flat.",
            (Query(latest(metrics.MISMATCH_KL)),),
        ),
        Panel(
            "Tokens cut by the correction",
            "Share of tokens whose gradient the mismatch correction cut; 0 where it is off. Healthy: below 0.01.",
            (Query(latest(metrics.CORRECTED_FRACTION)),),
            Unit.SHARE,
        ),
        Panel(
            "Staleness",
            "Optimizer steps between the oldest trained token's weights and the trained ones. Healthy: 0 on-policy, at "
            "most the configured lag otherwise.",
            (Query(latest(metrics.STALENESS)),),
        ),
        Panel(
            "Trees left out",
            "A second: too old for max_policy_lag; or uniform, where those are replaced, with the requests for more. "
            "Healthy: no stale ones; uniform ones as the share of prompts without a signal.",
            (
                Query(rate(metrics.STALE_TREES), "stale"),
                Query(rate(metrics.UNIFORM_TREES), "uniform"),
                Query(rate(metrics.REFILLS), "refills"),
            ),
            Unit.PER_SECOND,
        ),
    ),
)

_TIME = Row(
    "Time",
    (
        Panel(
            "Step time by phase",
            "Seconds of the last step. Healthy: most of it is train or sample_wait, depending on the hardware's split; "
            "publish is short. A long sample_wait wants more samplers.",
            (Query(latest(metrics.STEP_SECONDS, "phase", matchers='phase!="step"'), "{{phase}}"),),
            Unit.SECONDS,
            Look.STACKED,
        ),
        Panel(
            "Whole step",
            "Seconds from the request for trees to the published weights. Healthy: flat, or growing with responses.",
            (Query(latest(metrics.STEP_SECONDS, matchers='phase="step"')),),
            Unit.SECONDS,
        ),
    ),
)

TRAINING = Board(
    "treerl-training",
    "TreeRL / Training",
    "Whether the policy learns, and whether what it learns from can be trusted.",
    (_LEARNING, _UPDATES, _TRUST, _TIME),
)
