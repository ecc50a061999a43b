"""What vLLM is started with: its arguments, and what it reads from the environment.

Not covered: pipeline parallelism, quantization, speculative decoding.
"""

import os
from pathlib import Path
from typing import Any

from services.common.errors import ConfigurationError
from services.common.weight_broadcast import Backend
from services.sampler.adapters import Adapter, engine_rank
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_completion import MAX_TOP_TOKENS

CPU_BLOCK_TOKENS = 32
"""Smallest prefix-cache block of vLLM's CPU backend."""

CUDA_BLOCK_TOKENS = 16
"""Smallest prefix-cache block on CUDA."""

GLOO_BACKEND = "treerl-gloo"
"""Name in vLLM of the engine that receives weights where there is no GPU; see `gloo_transfer`."""


def runs_on_cpu(settings: SamplerSettings) -> bool:
    """Whether the engine is to run on the CPU."""
    if settings.device != "auto":
        return settings.device == "cpu"
    import torch

    return not torch.cuda.is_available()


def broadcast_backend(settings: SamplerSettings) -> Backend:
    """What weights that are broadcast come through."""
    return "gloo" if runs_on_cpu(settings) else "nccl"


def set_environment(settings: SamplerSettings, on_cpu: bool) -> None:
    """What vLLM reads from the environment; must happen before it is imported."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if not on_cpu:
        return
    # Eager kernels need no C++ compiler on the user's machine, spare half a minute of compiling before the first token,
    # and were measured twice as fast on models of a few million parameters.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(settings.kv_cache_gib)))
    # for the engine's process, which inherits it; one core is left to the process that feeds it
    os.environ["OMP_NUM_THREADS"] = str(settings.cpu_threads or max(1, len(os.sched_getaffinity(0)) - 1))


def engine_arguments(settings: SamplerSettings, folder: Path, on_cpu: bool, adapters: list[Adapter]) -> dict[str, Any]:
    """Arguments of `AsyncEngineArgs`; call after `set_environment`.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    if on_cpu and settings.max_batch_tokens < settings.max_model_tokens:
        raise ConfigurationError(
            f"max_batch_tokens is {settings.max_batch_tokens}: expected at least max_model_tokens, "
            f"{settings.max_model_tokens}, on a CPU, where one engine step takes a whole prompt"
        )
    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": settings.precision,
        "max_model_len": settings.max_model_tokens,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "block_size": CPU_BLOCK_TOKENS if on_cpu else CUDA_BLOCK_TOKENS,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        # vLLM's CPU worker dies of a seeded request whose prompt is computed in two steps: it cannot take back the
        # random number that it drew after the first
        "enable_chunked_prefill": not on_cpu,
        "enforce_eager": on_cpu,
        "gpu_memory_utilization": settings.gpu_memory_share,
        "tensor_parallel_size": settings.tensor_parallel,
        "data_parallel_size": settings.data_parallel,
        "enable_lora": bool(adapters),
        # one place stays empty: vLLM's CPU kernels add what is in the last one to tokens that have no adapter
        "max_loras": len(adapters) + 1,
        "max_lora_rank": engine_rank(adapters),
        "worker_extension_cls": "services.sampler.vllm_worker.WeightReload",
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": MAX_TOP_TOKENS,
        # Forks begin inside blocks, and vLLM's prefix cache shares whole ones only. Not as a consumer: for one of those
        # vLLM frees blocks late, in case a load is not ordered after what was computed before it; these copies are.
        "kv_transfer_config": {
            "kv_connector": "PartialBlocks",
            "kv_connector_module_path": "services.sampler.vllm_partial_blocks",
            "kv_role": "kv_producer",
        },
    }
    if settings.weights_transport == "broadcast":
        arguments["weight_transfer_config"] = {"backend": GLOO_BACKEND if on_cpu else "nccl"}
    if on_cpu and settings.tensor_parallel == 1:
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        # vLLM would put the model into a process of its own: each of the two then burns a core waiting for the other
        arguments["distributed_executor_backend"] = UniProcExecutor
    return arguments
