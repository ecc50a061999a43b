"""Whether work flows, weights arrive, and processes live."""

from monitoring.panels import Board, Look, Panel, Query, Row, Unit
from monitoring.promql import WINDOW, latest, or_zero, process, quantile, rate, ratio, series, total
from services.common import metrics

_FLOW = Row(
    "Work",
    (
        Panel(
            "Entries waiting",
            "Stream entries that no worker has taken. Healthy: prompts drain within a step, trees stay near 0.",
            (Query(latest(metrics.STREAM_WAITING, "stream"), "{{stream}}"),),
        ),
        Panel(
            "Oldest entry",
            "Age of the oldest entry that is not done. Healthy: prompts and trees below a step's time; graded below "
            "the time between checkpoints, which is when the trainer lets go of them.",
            (Query(latest(metrics.STREAM_OLDEST_SECONDS, "stream"), "{{stream}}"),),
            Unit.SECONDS,
        ),
        Panel(
            "Entries handled",
            "A second, by stream and result. Healthy: done alone; handed back shortly after a reload of several "
            "samplers; failed, duplicate and dead near 0.",
            (Query(rate(metrics.STREAM_ENTRIES, "stream", "result"), "{{stream}} {{result}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Trees being searched",
            "Over all samplers, with those that are held for clients. Healthy: as many as trees_in_flight allows while "
            "sampling.",
            (
                Query(total(metrics.TREES_IN_FLIGHT), "searched"),
                Query(total(metrics.TREES_HELD), "held"),
            ),
        ),
    ),
)

_WEIGHTS = Row(
    "Weights",
    (
        Panel(
            "Policy version",
            "Version that each sampler serves, beside the steps done. Healthy: all are equal but for moments.",
            (
                Query(latest(metrics.STEP), "trained"),
                Query(latest(metrics.SAMPLER_POLICY_VERSION, "instance"), "{{instance}}"),
            ),
        ),
        Panel(
            "Staleness",
            "Optimizer steps between the oldest trained token's weights and the trained ones. Healthy: 0 on-policy.",
            (Query(latest(metrics.STALENESS)),),
        ),
        Panel(
            "Reload pause",
            "Seconds in which a sampler could not sample. Healthy: far below a step's time; long ones wait for long "
            "responses: see reload_in_flight.",
            (
                Query(quantile(0.5, metrics.RELOAD_PAUSE_SECONDS), "p50"),
                Query(quantile(0.95, metrics.RELOAD_PAUSE_SECONDS), "p95"),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Reloads",
            "By result. Healthy: loaded alone.",
            (Query(rate(metrics.RELOADS, "result"), "{{result}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Canary",
            "Largest |engine - trainer| log-probability on the last reload's canary, in nats. Healthy: 0.00001 in "
            "fp32, up to 0.05 in bf16.",
            (Query(latest(metrics.RELOAD_CANARY, "instance"), "{{instance}}"),),
        ),
    ),
)

_ENGINE = Row(
    "Engine",
    (
        Panel(
            "KV cache in use",
            "Share of the engine's cache. Healthy: below 0.9; at 1 requests are preempted and prefixes computed again.",
            (Query(latest(metrics.VLLM_KV_CACHE_USAGE, "instance", "engine"), "{{instance}}/{{engine}}"),),
            Unit.SHARE,
        ),
        Panel(
            "Requests in the engine",
            "Running, and waiting for a place. Healthy: running near max_sequences while sampling.",
            (
                Query(total(metrics.VLLM_RUNNING), "running"),
                Query(total(metrics.VLLM_WAITING), "waiting"),
            ),
        ),
        Panel(
            "Prefix cache",
            "Share of prompt tokens found in the cache. Healthy: above 0.5 with forks, for a fork's prefix is cached.",
            (Query(ratio(metrics.VLLM_PREFIX_HITS, metrics.VLLM_PREFIX_QUERIES)),),
            Unit.SHARE,
        ),
    ),
)

_PROCESSES = Row(
    "Processes",
    (
        Panel(
            "Restarts",
            "Processes that were started in the window. Healthy: 0 after the run's start.",
            (Query(process(f"changes({series('process_start_time_seconds')}[{WINDOW}])"), "{{instance}}"),),
        ),
        Panel(
            "Failed calls",
            "RPCs a second that did not end with OK, by method and status. Healthy: 0 but for clients' own mistakes.",
            (Query(or_zero(rate(metrics.RPCS, "method", "status", matchers='status!="OK"')), "{{method}} {{status}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Time of a call",
            "Seconds, 95th percentile by method. Healthy: LoadCheckpoint near the reload pause, status calls near 0.",
            (Query(quantile(0.95, metrics.RPC_SECONDS, "method"), "{{method}}"),),
            Unit.SECONDS,
        ),
        Panel(
            "Calls waiting and refused",
            "Calls of clients that wait for their turn, and those refused a second. Healthy: none is refused.",
            (
                Query(total(metrics.CALLS_WAITING), "waiting"),
                Query(rate(metrics.CALLS_REFUSED), "refused a second"),
            ),
        ),
        Panel(
            "Memory",
            "Resident memory of each process, in MiB; an engine's GPU memory is not part of it. Healthy: flat.",
            (Query(process(f"{series('process_resident_memory_bytes')} / 2^20"), "{{instance}}"),),
        ),
        Panel(
            "CPU",
            "Cores in use by each process. Healthy: below the cores that it was given.",
            (Query(process(f"rate({series('process_cpu_seconds_total')}[{WINDOW}])"), "{{instance}}"),),
            look=Look.STACKED,
        ),
    ),
)

SYSTEM = Board(
    "treerl-system",
    "TreeRL / System",
    "Whether work flows, weights arrive, and processes live.",
    (_FLOW, _WEIGHTS, _ENGINE, _PROCESSES),
)
