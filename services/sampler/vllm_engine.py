"""vLLM's asynchronous engine behind the `Engine` protocol; the only file that imports vLLM's front end.

Not covered: multimodal prompts, and weight transfer over NCCL.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.common.errors import ConfigurationError, InvalidRequestError, UnavailableError
from services.sampler.adapters import Adapter, engine_rank, read_adapters
from services.sampler.engine import Completion, CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_completion import MAX_TOP_TOKENS, GrowingCompletion, sampling_params

CPU_BLOCK_TOKENS = 32
"""Smallest prefix-cache block of vLLM's CPU backend: a fork computes less than one block again."""

CUDA_BLOCK_TOKENS = 16
"""Smallest prefix-cache block on CUDA."""


class VllmEngine:
    """One vLLM engine. Every request carries the policy version as cache salt, so no prefix outlives its weights."""

    def __init__(self, llm: Any, max_model_tokens: int) -> None:
        """Wrap a running AsyncLLM; use `start`."""
        self._llm = llm
        self._max_model_tokens = max_model_tokens
        self._policy_version = 0
        self._two_logprobs = False
        self._adapters: dict[str, Any] = {}
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
            ConfigurationError: vLLM refuses the model, an adapter or the settings.
        """
        adapters = read_adapters(settings.adapters)
        on_cpu = _runs_on_cpu(settings)
        if on_cpu and settings.max_batch_tokens < settings.max_model_tokens:
            raise ConfigurationError(
                f"max_batch_tokens is {settings.max_batch_tokens}: expected at least max_model_tokens, "
                f"{settings.max_model_tokens}, on a CPU, where one engine step takes a whole prompt"
            )
        _set_environment(settings, on_cpu)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=settings.precision,
            max_model_len=settings.max_model_tokens,
            max_num_seqs=settings.max_sequences,
            max_num_batched_tokens=settings.max_batch_tokens,
            block_size=CPU_BLOCK_TOKENS if on_cpu else CUDA_BLOCK_TOKENS,
            enable_prefix_caching=True,
            # vLLM's CPU worker dies of a seeded request whose prompt is computed in two steps: it cannot take back the
            # random number that it drew after the first
            enable_chunked_prefill=not on_cpu,
            enforce_eager=on_cpu,
            gpu_memory_utilization=settings.gpu_memory_share,
            tensor_parallel_size=settings.tensor_parallel,
            enable_lora=bool(adapters),
            # one place stays empty: vLLM's CPU kernels add what is in the last one to tokens that have no adapter
            max_loras=len(adapters) + 1,
            max_lora_rank=engine_rank(adapters),
            worker_extension_cls="services.sampler.vllm_worker.WeightReload",
            logprobs_mode="raw_logprobs",
            max_logprobs=MAX_TOP_TOKENS,
            disable_log_stats=True,
        )
        try:
            # off the event loop: health checks must be answered while the model loads
            llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigurationError(f"vLLM cannot run {folder}: {error}") from error
        engine = cls(llm, settings.max_model_tokens)
        try:
            await engine._set_version(policy_version)
            engine._two_logprobs = all(await llm.collective_rpc("return_two_logprobs"))
            await engine._load_adapters(adapters)
        except BaseException:
            engine.close()
            raise
        return engine

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `Engine.complete`."""
        needed = len(request.token_ids) + request.max_tokens
        if needed > self._max_model_tokens:
            raise InvalidRequestError(
                f"{len(request.token_ids)} tokens of prompt and prefix plus at most {request.max_tokens} new ones: "
                f"the model holds {self._max_model_tokens}; shorten the prompt, lower max_tokens, raise "
                "max_model_tokens, or let prompt_overflow shorten prompts"
            )
        adapter = self._adapter(request.adapter)
        parameters = sampling_params(request, self._two_logprobs)
        while True:
            await self._open.wait()  # a request must not be given the old salt and then meet the new weights
            completion = GrowingCompletion(request)
            request_id = self._next_request_id()
            async for output in self._run(request_id, request.token_ids, parameters, adapter):
                if completion.add(output):
                    await self._llm.abort(request_id)
            if not completion.lost:
                return completion.completion()

    async def score(self, token_ids: tuple[int, ...]) -> tuple[float, ...]:
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
        async for output in self._run(self._next_request_id(), token_ids, parameters):
            prompt_logprobs = output.prompt_logprobs
        return tuple(p[t].logprob for t, p in zip(token_ids[1:], prompt_logprobs[1:], strict=True))

    async def pause(self, in_flight: InFlight) -> None:
        """See `Engine.pause`."""
        self._open.clear()
        await self._llm.pause_generation(mode=in_flight.name.lower(), clear_cache=in_flight is not InFlight.KEEP)

    async def replace_weights(self, folder: Path, policy_version: int) -> None:
        """See `Engine.replace_weights`."""
        await self._llm.collective_rpc("reload_from", args=(str(folder),))
        await self._set_version(policy_version)
        await self._llm.resume_generation()  # for `score`; `complete` stays closed

    async def resume(self) -> None:
        """See `Engine.resume`."""
        await self._llm.resume_generation()
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

    async def _set_version(self, policy_version: int) -> None:
        await self._llm.update_weight_version(str(policy_version))
        self._policy_version = policy_version

    async def _load_adapters(self, adapters: list[Adapter]) -> None:
        from vllm.lora.request import LoRARequest

        for adapter in adapters:
            lora = LoRARequest(adapter.name, len(self._adapters) + 1, str(adapter.folder))
            try:
                # now: at its first request it would fail in the middle of an engine step
                await self._llm.add_lora(lora)
            except Exception as error:  # vLLM has no narrower class for what fails in its engine process
                raise ConfigurationError(f"vLLM cannot load adapter {adapter.name!r}: {error}") from error
            self._adapters[adapter.name] = lora

    def _adapter(self, name: str) -> Any:
        """vLLM's request for an adapter; None for the policy itself."""
        if not name:
            return None
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise InvalidRequestError(f"no adapter {name!r}: known are {known}; name them in [sampler.adapters]")
        return self._adapters[name]

    def _next_request_id(self) -> str:
        self._requests += 1
        return str(self._requests)

    async def _run(
        self, request_id: str, token_ids: tuple[int, ...], parameters: Any, adapter: Any = None
    ) -> AsyncIterator[Any]:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = {"prompt_token_ids": list(token_ids), "cache_salt": str(self._policy_version)}
        try:
            async for output in self._llm.generate(prompt, parameters, request_id, lora_request=adapter):
                yield output
        except EngineDeadError as error:
            raise UnavailableError("vLLM's engine process died; see its messages above") from error
        except VLLMClientError as error:
            raise InvalidRequestError(str(error)) from error


def _runs_on_cpu(settings: SamplerSettings) -> bool:
    if settings.device != "auto":
        return settings.device == "cpu"
    import torch

    return not torch.cuda.is_available()


def _set_environment(settings: SamplerSettings, on_cpu: bool) -> None:
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
