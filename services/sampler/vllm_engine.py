"""vLLM's asynchronous engine behind the `Engine` protocol; the only file that imports vLLM's front end.

Not covered: LoRA adapters, multimodal prompts, and weight transfer over NCCL.
"""

import asyncio
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.common.errors import CheckpointError, ConfigurationError, InvalidRequestError, UnavailableError
from services.common.tree import FinishReason, VersionSpan
from services.sampler.engine import Completion, CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings

ENTROPY_TOP_K = 20
"""Most likely tokens that Shannon entropy is summed over; what lies beyond adds nothing."""

CPU_BLOCK_TOKENS = 32
"""Smallest prefix-cache block of vLLM's CPU backend: a fork computes less than one block again."""

CUDA_BLOCK_TOKENS = 16
"""Smallest prefix-cache block on CUDA."""


class VllmEngine:
    """One vLLM engine.

    Each time that weights are put into it begins a *tenure*, with a name of its own: a policy version can come twice
    with different weights, when a trainer resumes from a checkpoint. The tenure is every request's cache salt, so that
    no prefix outlives its weights, and vLLM's weight version, so that each token says under what it was sampled.
    """

    def __init__(self, llm: Any, max_model_tokens: int, replicas: int) -> None:
        """Wrap a running AsyncLLM; use `start`."""
        self.replicas = replicas
        self._llm = llm
        self._max_model_tokens = max_model_tokens
        self._tenure = ""
        self._tenures = 0
        self._accepted: set[str] = set()
        self._requests = 0
        self._open = asyncio.Event()
        self._open.set()

    @classmethod
    async def start(cls, settings: SamplerSettings, folder: Path, policy_version: int) -> "VllmEngine":
        """Load a model; takes about 30 s on a CPU.

        Args:
            settings: how to run it.
            folder: Hugging Face folder to load.
            policy_version: version of those weights.

        Raises:
            ConfigurationError: vLLM refuses the model or the settings.
        """
        on_cpu = _runs_on_cpu(settings)
        set_environment(settings, on_cpu)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(settings, folder, on_cpu))
        try:
            # off the event loop: health checks must be answered while the model loads
            llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigurationError(f"vLLM cannot run {folder}: {error}") from error
        engine = cls(llm, settings.max_model_tokens, settings.data_parallel)
        await engine._begin_tenure(policy_version)
        await engine.resume()
        return engine

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `Engine.complete`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        needed = len(request.token_ids) + request.max_tokens
        if needed > self._max_model_tokens:
            raise InvalidRequestError(
                f"{len(request.token_ids)} tokens of prompt and prefix plus at most {request.max_tokens} new ones: "
                f"the model holds {self._max_model_tokens}; shorten the prompt, lower max_tokens, or raise "
                "max_model_tokens"
            )
        parameters = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop=list(request.stop),
            include_stop_str_in_output=True,
            detokenize=bool(request.stop),
            logprobs=ENTROPY_TOP_K if request.with_entropies else 0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        while True:
            await self._until_open()
            asked_in = self._tenure
            output = await self._run(request.token_ids, parameters, request.affinity % self.replicas)
            await self._until_open()  # the weights under which a kept request ended may yet be refused
            sampled = output.outputs[0]
            if sampled.finish_reason != "abort" and self._stands(sampled.weight_versions, asked_in):
                break  # else a reload came between: sample again
        return Completion(
            token_ids=tuple(sampled.token_ids),
            logprobs=tuple(p[t].logprob for t, p in zip(sampled.token_ids, sampled.logprobs, strict=True)),
            entropies=tuple(_entropy(p) for p in sampled.logprobs) if request.with_entropies else (),
            versions=tuple(VersionSpan(_version_of(s.version), s.end - s.start) for s in sampled.weight_versions),
            finish_reason=FinishReason.LENGTH if sampled.finish_reason == "length" else FinishReason.STOP,
            prefilled_tokens=len(request.token_ids) - (output.num_cached_tokens or 0),
        )

    async def score(self, token_ids: tuple[int, ...], replica: int = 0) -> tuple[float, ...]:
        """See `Engine.score`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        held = token_ids[: self._max_model_tokens - 1]  # vLLM samples a token in any case
        output = await self._run(held, parameters, replica)
        return tuple(p[t].logprob for t, p in zip(held[1:], output.prompt_logprobs[1:], strict=True))

    async def pause(self, in_flight: InFlight) -> None:
        """See `Engine.pause`."""
        self._open.clear()
        with _alive():
            await self._llm.pause_generation(mode=in_flight.name.lower(), clear_cache=in_flight is not InFlight.KEEP)

    async def replace_weights(self, folder: Path, policy_version: int) -> None:
        """See `Engine.replace_weights`."""
        with _alive():
            try:
                await self._llm.collective_rpc("reload_from", args=(str(folder),))
            except Exception as error:
                if type(error) is not Exception:  # what vLLM makes of any failure in its worker
                    raise
                reason = " ".join(str(error).split())
                raise CheckpointError(f"vLLM cannot read the weights in {folder}: {reason}") from error
            await self._begin_tenure(policy_version)
            await self._llm.resume_generation()  # for `score`; `complete` stays closed

    async def resume(self) -> None:
        """See `Engine.resume`."""
        with _alive():
            await self._llm.resume_generation()
        self._accepted.add(self._tenure)
        self._open.set()

    def check_health(self) -> None:
        """Do nothing if the engine lives.

        Raises:
            UnavailableError: its process died.
        """
        if self._llm.errored:
            raise UnavailableError("vLLM's engine process died; see its messages above")

    def close(self) -> None:
        """End the engine's processes."""
        self._llm.shutdown()

    async def _begin_tenure(self, policy_version: int) -> None:
        self._tenures += 1
        self._tenure = f"{policy_version}.{self._tenures}"
        await self._llm.update_weight_version(self._tenure)

    def _stands(self, spans: Any, asked_in: str) -> bool:
        """Whether all of a completion was sampled under accepted weights, from the ones on that it was salted for.

        One that was on its way to vLLM when weights were replaced has the old salt but begins under the new weights:
        the blocks that it shares are of the old ones.
        """
        tenures = [span.version for span in spans]
        return tenures[0] == asked_in and self._accepted.issuperset(tenures)

    async def _until_open(self) -> None:
        while not self._open.is_set():  # it may have been closed again before a waiter's turn comes
            await self._open.wait()

    async def _run(self, token_ids: tuple[int, ...], parameters: Any, replica: int) -> Any:
        self._requests += 1
        prompt = {"prompt_token_ids": list(token_ids), "cache_salt": self._tenure}
        name = str(self._requests)
        with _alive():
            outputs = [o async for o in self._llm.generate(prompt, parameters, name, data_parallel_rank=replica)]
        return outputs[-1]


@contextmanager
def _alive() -> Iterator[None]:
    """Turns vLLM's word that its process died into ours."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise UnavailableError("vLLM's engine process died; see its messages above") from error


def _version_of(tenure: str) -> int:
    return int(tenure.partition(".")[0])


def engine_arguments(settings: SamplerSettings, folder: Path, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is started with."""
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": settings.precision,
        "max_model_len": settings.max_model_tokens,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "block_size": CPU_BLOCK_TOKENS if on_cpu else CUDA_BLOCK_TOKENS,
        "enable_prefix_caching": True,
        "enforce_eager": on_cpu,
        "gpu_memory_utilization": settings.gpu_memory_share,
        "tensor_parallel_size": settings.tensor_parallel,
        "data_parallel_size": settings.data_parallel,
        "worker_extension_cls": "services.sampler.vllm_worker.WeightReload",
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": ENTROPY_TOP_K,
        "disable_log_stats": True,
    }


def _entropy(top: dict[int, Any]) -> float:
    """Shannon entropy of the listed tokens, in nats."""
    logprobs: list[float] = [token.logprob for token in top.values()]
    return -sum(math.exp(logprob) * logprob for logprob in logprobs)


def _runs_on_cpu(settings: SamplerSettings) -> bool:
    if settings.device != "auto":
        return settings.device == "cpu"
    import torch

    return not torch.cuda.is_available()


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
    if settings.cpu_threads:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{settings.cpu_threads - 1}"
