"""Every Prometheus metric of the system, by service, and the HTTP server that exposes them.

Dashboards and alerts are made from these objects; no metric is named anywhere else. Units are base units (seconds,
bytes, nats) and part of the name.
"""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.common.errors import ConfigurationError

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_NATS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)

# every service
RPCS = Counter("treerl_rpcs", "RPCs ended, by method and gRPC status", ["method", "status"])
RPC_SECONDS = Histogram("treerl_rpc_seconds", "Time an RPC took", ["method"], buckets=_SECONDS)
STREAM_ENTRIES = Counter("treerl_stream_entries", "Stream entries handled, by result", ["stream", "result"])
STREAM_WAITING = Gauge("treerl_stream_waiting_entries", "Stream entries not yet taken by any worker", ["stream"])
CALLS_WAITING = Gauge("treerl_calls_waiting", "Calls that wait for their turn")
CALLS_REFUSED = Counter("treerl_calls_refused", "Calls refused because too many wait")

# sampler
SAMPLED_TREES = Counter("treerl_sampled_trees", "Trees sampled")
SAMPLED_LEAVES = Counter("treerl_sampled_leaves", "Leaves sampled")
DECODED_TOKENS = Counter("treerl_decoded_tokens", "Tokens sampled by the engine")
TREE_SECONDS = Histogram("treerl_tree_seconds", "Time from a tree's first request to its last token", buckets=_SECONDS)
TREES_IN_FLIGHT = Gauge("treerl_trees_in_flight", "Trees being searched")
TREES_HELD = Gauge("treerl_trees_held", "Trees held for clients")
FORK_INDEX = Histogram("treerl_fork_index_tokens", "Position of a fork in its response", buckets=_TOKENS)
FORK_PREFILLED = Histogram(
    "treerl_fork_prefilled_tokens", "Tokens of a fork's prefix that the engine computed again", buckets=_TOKENS
)
FORK_TOKENS = Counter(
    "treerl_fork_tokens",
    "Tokens that searches forked at, by the class of their text and how they were chosen",
    ["token_class", "selection"],
)
FORK_SURPRISAL = Histogram(
    "treerl_fork_surprisal_nats", "Surprisal of the tokens that searches forked at", buckets=_NATS
)
SHORTENED_PROMPTS = Counter("treerl_shortened_prompts", "Prompts whose text was cut to leave room for the response")
SAMPLER_POLICY_VERSION = Gauge("treerl_sampler_policy_version", "Policy version that the sampler serves")
RELOADS = Counter("treerl_reloads", "Weight reloads, by result: loaded, refused, wrong canary, interrupted", ["result"])
RELOAD_PAUSE_SECONDS = Histogram(
    "treerl_reload_pause_seconds", "Time during a reload when no token could be sampled", buckets=_SECONDS
)
RELOAD_CANARY = Gauge(
    "treerl_reload_canary_max_abs_logprob_diff_nats", "Largest |engine - trainer| logprob on the last reload's canary"
)

# verifier
VERDICTS = Counter("treerl_verdicts", "Verdicts given, by domain and outcome", ["domain", "outcome"])
GRADING_SECONDS = Histogram("treerl_grading_seconds", "Time one grading took", ["domain"], buckets=_SECONDS)
GRADINGS_IN_FLIGHT = Gauge("treerl_gradings_in_flight", "Gradings under way")
CACHED_JUDGEMENTS = Counter(
    "treerl_judgements_asked",
    "Judgements asked for: hit (kept from before), shared (with one under way), miss",
    ["result"],
)
ISOLATION_LEVEL = Gauge(
    "treerl_isolation_level", "Sandbox layers that hold: 1 rlimits, 2 Landlock, 3 seccomp, 4 namespaces"
)
GRADER_RESTARTS = Counter("treerl_grader_restarts", "Graders' processes replaced, by kind and cause", ["kind", "cause"])

# trainer
STEP = Gauge("treerl_step", "Training steps done")
PASS_RATE = Gauge("treerl_pass_rate", "Share of the last step's graded leaves that are correct")
HELDOUT_ACCURACY = Gauge("treerl_heldout_accuracy", "Greedy accuracy on held-out problems, last evaluation")
ZERO_VARIANCE_SHARE = Gauge(
    "treerl_zero_variance_share", "Share of the last step's prompts whose leaves all got one reward"
)
LOSS = Gauge("treerl_loss", "Policy-gradient loss of the last step")
LEARNING_RATE = Gauge("treerl_learning_rate", "Learning rate of the last step")
GRAD_NORM = Gauge("treerl_grad_norm", "Gradient norm before clipping, last step")
CLIP_FRACTION = Gauge("treerl_clip_fraction", "Share of the last step's tokens whose importance ratio was clipped")
ENTROPY = Gauge("treerl_entropy_nats", "Mean policy entropy at the last step's tokens")
MISMATCH_KL = Gauge("treerl_mismatch_kl_nats", "k3 estimate of KL(engine || trainer), last step")
MISMATCH_ABS = Gauge("treerl_mismatch_mean_abs_logprob_diff_nats", "Mean |engine - trainer| logprob, last step")
REFERENCE_KL = Gauge("treerl_reference_kl_nats", "k3 estimate of KL(policy || reference), last step")
CORRECTED_FRACTION = Gauge(
    "treerl_corrected_fraction", "Share of the last step's tokens whose gradient the mismatch correction cut"
)
STALENESS = Gauge(
    "treerl_staleness_steps", "Optimizer steps between the oldest trained token's weights and the trained ones"
)
STALE_TREES = Counter("treerl_stale_trees", "Trees dropped because their weights were older than max_policy_lag allows")
UNIFORM_TREES = Counter("treerl_uniform_trees", "Trees left out because all their leaves got one reward")
REFILLS = Counter("treerl_refills", "Times that further prompts were asked for to fill a step")
STEP_SECONDS = Gauge("treerl_step_seconds", "Duration of the last step, by phase", ["phase"])
CHECKPOINT_STEP = Gauge("treerl_checkpoint_step", "Last step that a durable checkpoint covers")


def serve_metrics(host: str, port: int) -> int:
    """Expose /metrics over HTTP.

    Returns:
        The port; a free one if 0 was asked for.

    Raises:
        ConfigurationError: the port is taken.
    """
    try:
        server, _ = start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    return int(server.server_port)
