"""vLLM's asynchronous engine behind the `Engine` protocol; the only file that imports vLLM's front end.

Not covered: multimodal prompts.
"""

import asyncio
import gc
import importlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.common.errors import (
    BroadcastError,
    CheckpointError,
    ConfigurationError,
    InvalidRequestError,
    NotJoinedError,
    TreerlError,
    UnavailableError,
)
from services.common.tensor_layout import TORCH_TYPES, Layout
from services.common.weight_broadcast import Rendezvous
from services.sampler.adapters import Adapter, read_adapters
from services.sampler.cache_room import CacheRoom
from services.sampler.engine import Completion, CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_arguments import engine_arguments, runs_on_cpu, set_environment
from services.sampler.vllm_completion import GrowingCompletion, sampling_params

_GRACE_S = 5.0
"""Time for a worker to give up by itself before it is held to hang, in seconds."""


class VllmEngine:
    """One vLLM engine.

    Each time that weights are put into it begins a *tenure*, with a name of its own: a policy version can come twice
    with different weights, when a trainer resumes from a checkpoint. The tenure is every request's cache salt, so that
    no prefix outlives its weights, and vLLM's weight version, so that each token says under what it was sampled.
    """

    def __init__(self, llm: Any, max_model_tokens: int, replicas: int) -> None:
        """Wrap a running AsyncLLM; use `start`."""
        self.replicas = replicas
        cache = llm.vllm_config.cache_config
        self.cache = CacheRoom(cache.num_gpu_blocks * cache.block_size)  # on a CPU they are called so too
        self._llm = llm
        self._max_model_tokens = max_model_tokens
        self._two_logprobs = False
        self._adapters: dict[str, Any] = {}
        self._tenure = ""
        self._tenures = 0
        self._in_flight = InFlight.ABORT
        self._continuing: set[str] = set()
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
            ConfigurationError: vLLM refuses the model, an adapter or the settings.
        """
        adapters = read_adapters(settings.adapters)
        on_cpu = runs_on_cpu(settings)
        set_environment(settings, on_cpu)
        # off the event loop: health checks must be answered while vLLM is imported, and while the model loads
        await asyncio.to_thread(importlib.import_module, "vllm.v1.engine.async_llm")
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(settings, folder, on_cpu, adapters))
        try:
            llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigurationError(f"vLLM cannot run {folder}: {error}") from error
        engine = cls(llm, settings.max_model_tokens, settings.data_parallel)
        try:
            await llm.collective_rpc("end_with", args=(os.getpid(),))
            await engine._begin_tenure(policy_version)
            engine._two_logprobs = all(await llm.collective_rpc("extend_sampler"))
            await engine._load_adapters(adapters)
            await engine.resume()
        except BaseException:
            engine.close()
            raise
        _settle()
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
        replica = request.affinity % self.replicas
        while True:
            await self._until_open()
            asked_in = self._tenure
            completion = GrowingCompletion(request)
            request_id = self._next_request_id()
            async for output in self._run(
                request_id, request.token_ids, parameters, replica, request.priority, adapter
            ):
                if completion.add(output):
                    await self._llm.abort(request_id)
            await self._until_open()  # the weights under which a kept request ended may yet be refused
            if not completion.lost and self._stands(completion.tenures, asked_in):
                return completion.completion()  # else a reload came between: sample again

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
        async for output in self._run(self._next_request_id(), held, parameters, replica):
            prompt_logprobs = output.prompt_logprobs
        return tuple(p[t].logprob for t, p in zip(held[1:], prompt_logprobs[1:], strict=True))

    async def pause(self, in_flight: InFlight) -> None:
        """See `Engine.pause`."""
        self._open.clear()
        self._in_flight = in_flight
        with _alive():
            # as `pause_generation`, without its sleep of 20 ms; nothing that counts reads the cache of old weights
            await self._llm.engine_core.pause_scheduler_async(mode=in_flight.name.lower(), clear_cache=False)

    async def replace_weights(self, folder: Path, policy_version: int) -> None:
        """See `Engine.replace_weights`."""
        with _alive():
            with _told_as(CheckpointError, f"vLLM cannot read the weights in {folder}"):
                await self._llm.collective_rpc("reload_from", args=(str(folder),))
            await self._begin_tenure(policy_version)
            await self._llm.resume_generation()  # for `score`; `complete` stays closed

    async def receive_weights(self, rendezvous: Rendezvous, layout: Layout, policy_version: int) -> None:
        """See `Engine.receive_weights`."""
        init_info, update_info = transfer_infos(rendezvous, layout)
        try:
            async with asyncio.timeout(rendezvous.patience_s + _GRACE_S):
                with _alive():
                    with _told_as(NotJoinedError, "the group that weights are sent to did not form"):
                        await self._llm.collective_rpc("join_broadcast", args=(init_info,))
                    with _told_as(BroadcastError, "the broadcast of weights broke off"):
                        await self._llm.collective_rpc("receive_broadcast", args=(update_info,))
                    await self._begin_tenure(policy_version)
                    await self._llm.resume_generation()
        except TimeoutError as error:
            # nothing interrupts NCCL: only the end of the process does
            raise UnavailableError(f"a broadcast of weights hangs, after {rendezvous.patience_s:g} s") from error

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
        _unsettle()

    async def _begin_tenure(self, policy_version: int) -> None:
        self._tenures += 1
        self._tenure = f"{policy_version}.{self._tenures}"
        if self._in_flight is InFlight.KEEP:
            self._continuing.add(self._tenure)
        await self._llm.update_weight_version(self._tenure)

    def _stands(self, tenures: list[str], asked_in: str) -> bool:
        """Whether all of a completion was sampled under accepted weights, from the ones on that it was salted for.

        One that was on its way to vLLM when weights were replaced has the old salt but begins under the new weights:
        the blocks that it shares are of the old ones. So are those of one that vLLM had taken back to its queue when
        all others had ended: it goes on, though it was to be waited for.
        """
        ended_well = tenures[0] == asked_in and self._accepted.issuperset(tenures)
        return ended_well and self._continuing.issuperset(tenures[1:])

    async def _until_open(self) -> None:
        while not self._open.is_set():  # it may have been closed again before a waiter's turn comes
            await self._open.wait()

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
        self,
        request_id: str,
        token_ids: tuple[int, ...],
        parameters: Any,
        replica: int,
        priority: int = 0,
        adapter: Any = None,
    ) -> AsyncIterator[Any]:
        from vllm.exceptions import VLLMClientError

        prompt = {"prompt_token_ids": list(token_ids), "cache_salt": self._tenure}
        outputs = self._llm.generate(
            prompt, parameters, request_id, lora_request=adapter, data_parallel_rank=replica, priority=priority
        )
        with _alive():
            try:
                async for output in outputs:
                    yield output
            except VLLMClientError as error:
                raise InvalidRequestError(str(error)) from error


def _settle() -> None:
    """Look no more at what only a start changes: the environment, which vLLM reads several times for each request, and
    the million objects of its libraries, through which the garbage collector goes while requests wait.
    """
    from vllm.envs import enable_envs_cache
    from vllm.utils.gc_utils import freeze_gc_heap

    enable_envs_cache()
    freeze_gc_heap()


def _unsettle() -> None:
    from vllm.envs import disable_envs_cache

    disable_envs_cache()
    gc.unfreeze()


def transfer_infos(rendezvous: Rendezvous, layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    """What vLLM's NCCL engine is told of the group, and of the weights."""
    init_info = {
        "master_address": rendezvous.host,
        "master_port": rendezvous.port,
        "rank_offset": rendezvous.first_rank,
        "world_size": rendezvous.world_size,
    }
    update_info = {
        "names": list(layout),
        "dtype_names": [TORCH_TYPES[kind.dtype] for kind in layout.values()],
        "shapes": [list(kind.shape) for kind in layout.values()],
    }
    return init_info, update_info


@contextmanager
def _told_as(kind: type[TreerlError], what: str) -> Iterator[None]:
    """Turns a failure in vLLM's worker into an error of ours."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # what vLLM makes of any failure in its worker
            raise
        raise kind(f"{what}: {' '.join(str(error).split())}") from error


@contextmanager
def _alive() -> Iterator[None]:
    """Turns vLLM's word that its process died into ours."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise UnavailableError("vLLM's engine process died; see its messages above") from error
