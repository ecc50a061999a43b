"""Every Prometheus metric of the system, by service, and the HTTP server that exposes them.

Dashboards, alerts and docs/metrics.md are made from these objects (`python -m monitoring`); no metric is named anywhere
else. Units are base units (seconds, bytes, nats) and part of the name.

A process exposes what every service measures and what its own kind does: a verifier has no pass rate, not one of 0.
"""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from services.common.errors import ConfigurationError

SAMPLER, VERIFIER, TRAINER = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
OF_SERVICE = {"sampler": SAMPLER, "verifier": VERIFIER, "trainer": TRAINER}
"""What one kind of service measures; the default registry holds what all do."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_NATS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)

# every service
RPCS = Counter("treerl_rpcs", "RPCs ended, by method and gRPC status", ["method", "status"])
RPC_SECONDS = Histogram("treerl_rpc_seconds", "Time an RPC took", ["method"], buckets=_SECONDS)
STREAM_ENTRIES = Counter("treerl_stream_entries", "Stream entries handled, by result", ["stream", "result"])
STREAM_WAITING = Gauge("treerl_stream_waiting_entries", "Stream entries not yet taken by any worker", ["stream"])
STREAM_OLDEST_SECONDS = Gauge(
    "treerl_stream_oldest_entry_seconds", "Age of the oldest entry that is not done yet; 0 if there is none", ["stream"]
)
DEAD_LETTERS = Gauge("treerl_dead_letters", "Entries of the run that were given up")
CALLS_WAITING = Gauge("treerl_calls_waiting", "Calls that wait for their turn")
CALLS_REFUSED = Counter("treerl_calls_refused", "Calls refused because too many wait")

# sampler
SAMPLED_TREES = Counter("treerl_sampled_trees", "Trees sampled", registry=SAMPLER)
SAMPLED_LEAVES = Counter("treerl_sampled_leaves", "Leaves sampled", registry=SAMPLER)
DECODED_TOKENS = Counter("treerl_decoded_tokens", "Tokens sampled by the engine", registry=SAMPLER)
TREE_SECONDS = Histogram(
    "treerl_tree_seconds", "Time from a tree's first request to its last token", buckets=_SECONDS, registry=SAMPLER
)
TREES_IN_FLIGHT = Gauge("treerl_trees_in_flight", "Trees being searched", registry=SAMPLER)
TREES_HELD = Gauge("treerl_trees_held", "Trees held for clients", registry=SAMPLER)
FORK_INDEX = Histogram(
    "treerl_fork_index_tokens", "Position of a fork in its response", buckets=_TOKENS, registry=SAMPLER
)
FORK_PREFILLED = Histogram(
    "treerl_fork_prefilled_tokens",
    "Tokens of a fork's prefix that the engine computed again",
    buckets=_TOKENS,
    registry=SAMPLER,
)
FORK_TOKENS = Counter(
    "treerl_fork_tokens",
    "Tokens that searches forked at, by the class of their text and how they were chosen",
    ["token_class", "selection"],
    registry=SAMPLER,
)
FORK_SURPRISAL = Histogram(
    "treerl_fork_surprisal_nats", "Surprisal of the tokens that searches forked at", buckets=_NATS, registry=SAMPLER
)
SHORTENED_PROMPTS = Counter(
    "treerl_shortened_prompts", "Prompts whose text was cut to leave room for the response", registry=SAMPLER
)
SAMPLER_POLICY_VERSION = Gauge(
    "treerl_sampler_policy_version", "Policy version that the sampler serves", registry=SAMPLER
)
RELOADS = Counter(
    "treerl_reloads",
    "Weight reloads, by result: loaded, refused, wrong canary, interrupted",
    ["result"],
    registry=SAMPLER,
)
RELOAD_PAUSE_SECONDS = Histogram(
    "treerl_reload_pause_seconds",
    "Time during a reload when no token could be sampled",
    buckets=_SECONDS,
    registry=SAMPLER,
)
RELOAD_CANARY = Gauge(
    "treerl_reload_canary_max_abs_logprob_diff_nats",
    "Largest |engine - trainer| logprob on the last reload's canary",
    registry=SAMPLER,
)

# verifier
VERDICTS = Counter("treerl_verdicts", "Verdicts given, by domain and outcome", ["domain", "outcome"], registry=VERIFIER)
GRADING_SECONDS = Histogram(
    "treerl_grading_seconds", "Time one grading took", ["domain"], buckets=_SECONDS, registry=VERIFIER
)
GRADINGS_IN_FLIGHT = Gauge("treerl_gradings_in_flight", "Gradings under way", registry=VERIFIER)
CACHED_JUDGEMENTS = Counter(
    "treerl_judgements_asked",
    "Judgements asked for: hit (kept from before), shared (with one under way), miss",
    ["result"],
    registry=VERIFIER,
)
CHILD_KILLS = Counter(
    "treerl_child_kills",
    "Programs that the sandbox killed, by cause: time, memory, output, threads, starved",
    ["cause"],
    registry=VERIFIER,
)
ISOLATION_LEVEL = Gauge(
    "treerl_isolation_level",
    "Sandbox layers that hold: 1 rlimits, 2 Landlock, 3 seccomp, 4 namespaces",
    registry=VERIFIER,
)
GRADER_RESTARTS = Counter(
    "treerl_grader_restarts", "Graders' processes replaced, by kind and cause", ["kind", "cause"], registry=VERIFIER
)

# trainer
RUN_STATE = Gauge(
    "treerl_run_state", "Phase of the run: 1 starting, 2 running, 3 paused, 4 finished, 5 failed", registry=TRAINER
)
STEP = Gauge("treerl_step", "Training steps done", registry=TRAINER)
STEP_TIMESTAMP = Gauge(
    "treerl_step_timestamp_seconds", "Unix time at which the last step ended, or the run started", registry=TRAINER
)
PASS_RATE = Gauge("treerl_pass_rate", "Share of the last step's graded leaves that are correct", registry=TRAINER)
HELDOUT_ACCURACY = Gauge(
    "treerl_heldout_accuracy", "Greedy accuracy on held-out problems, last evaluation", registry=TRAINER
)
ZERO_VARIANCE_SHARE = Gauge(
    "treerl_zero_variance_share", "Share of the last step's prompts whose leaves all got one reward", registry=TRAINER
)
LOSS = Gauge("treerl_loss", "Policy-gradient loss of the last step", registry=TRAINER)
LEARNING_RATE = Gauge("treerl_learning_rate", "Learning rate of the last step", registry=TRAINER)
GRAD_NORM = Gauge("treerl_grad_norm", "Gradient norm before clipping, last step", registry=TRAINER)
CLIP_FRACTION = Gauge(
    "treerl_clip_fraction", "Share of the last step's tokens whose importance ratio was clipped", registry=TRAINER
)
ENTROPY = Gauge("treerl_entropy_nats", "Mean policy entropy at the last step's tokens", registry=TRAINER)
MISMATCH_KL = Gauge("treerl_mismatch_kl_nats", "k3 estimate of KL(engine || trainer), last step", registry=TRAINER)
MISMATCH_ABS = Gauge(
    "treerl_mismatch_mean_abs_logprob_diff_nats", "Mean |engine - trainer| logprob, last step", registry=TRAINER
)
REFERENCE_KL = Gauge("treerl_reference_kl_nats", "k3 estimate of KL(policy || reference), last step", registry=TRAINER)
CORRECTED_FRACTION = Gauge(
    "treerl_corrected_fraction",
    "Share of the last step's tokens whose gradient the mismatch correction cut",
    registry=TRAINER,
)
STALENESS = Gauge(
    "treerl_staleness_steps",
    "Optimizer steps between the oldest trained token's weights and the trained ones",
    registry=TRAINER,
)
STALE_TREES = Counter(
    "treerl_stale_trees", "Trees dropped because their weights were older than max_policy_lag allows", registry=TRAINER
)
UNIFORM_TREES = Counter(
    "treerl_uniform_trees", "Trees left out because all their leaves got one reward", registry=TRAINER
)
REFILLS = Counter("treerl_refills", "Times that further prompts were asked for to fill a step", registry=TRAINER)
STEP_SECONDS = Gauge("treerl_step_seconds", "Duration of the last step, by phase", ["phase"], registry=TRAINER)
CHECKPOINT_STEP = Gauge("treerl_checkpoint_step", "Last step that a durable checkpoint covers", registry=TRAINER)
CHECKPOINT_EVERY = Gauge("treerl_checkpoint_every_steps", "Steps that are to lie between checkpoints", registry=TRAINER)
SEGMENT_VALUE = Gauge(
    "treerl_segment_value", "Mean V(s) of the last step's segments, by forks above them", ["depth"], registry=TRAINER
)
GA_VARIANCE = Gauge(
    "treerl_global_advantage_variance", "Variance of GA(s) over the last step's segments", registry=TRAINER
)
LA_VARIANCE = Gauge(
    "treerl_local_advantage_variance", "Variance of LA(s) over the last step's segments", registry=TRAINER
)
DISTINCT_ANSWERS = Gauge(
    "treerl_distinct_answers", "Different answers among a tree's leaves, mean of the last step", registry=TRAINER
)

# What the engine exposes on a sampler's port is named by vLLM; these are the ones that dashboards show.
VLLM_KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
VLLM_RUNNING = "vllm:num_requests_running"
VLLM_WAITING = "vllm:num_requests_waiting"
VLLM_PREFIX_HITS = "vllm:prefix_cache_hits_total"
VLLM_PREFIX_QUERIES = "vllm:prefix_cache_queries_total"


def serve_metrics(host: str, port: int, service: str) -> int:
    """Expose /metrics of one kind of service over HTTP.

    Returns:
        The port; a free one if 0 was asked for.

    Raises:
        ConfigurationError: the port is taken.
    """
    exposed = CollectorRegistry()
    exposed.register(REGISTRY)
    exposed.register(OF_SERVICE[service])
    try:
        server, _ = start_http_server(port, addr=host, registry=exposed)
    except OSError as error:
        raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    return int(server.server_port)
