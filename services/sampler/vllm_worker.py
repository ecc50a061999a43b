"""Code that runs inside vLLM's worker processes."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import psutil
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from services.common.broadcast_group import join
from services.sampler.vllm_arguments import GLOO_BACKEND

WeightTransferEngineFactory.register_engine(GLOO_BACKEND, "services.sampler.gloo_transfer", "GlooTransferEngine")

PARENT_CHECK_S = 1.0
"""Seconds between two looks at the process that an engine serves."""


class WeightReload:
    """Worker extension (vLLM's `worker_extension_cls`): its methods become the worker's own."""

    if TYPE_CHECKING:
        model_runner: Any
        reload_weights: Any
        weight_transfer_engine: Any
        init_weight_transfer_engine: Any
        start_weight_update: Any
        update_weights: Any
        finish_weight_update: Any

    def end_with(self, pid: int) -> None:
        """Kill this process once another has ended: a sampler that was killed must not leave its engine behind."""
        Thread(target=_end_with, args=(psutil.Process(pid),), daemon=True).start()

    def extend_sampler(self) -> bool:
        """See `vllm_sampler.install`."""
        from services.sampler.vllm_sampler import install

        return install(self.model_runner)

    def reload_from(self, folder: str) -> None:
        """Read the weights of a Hugging Face folder into the running model.

        On a CPU vLLM multiplies by a packed copy of each matrix. `reload_weights` renews the copies of the layers that
        it loads, but an output layer tied to the embeddings is not one of those: without packing it anew it goes on
        with the old weights, and nothing says so.
        """
        with self._forgetting_what_is_half_loaded():
            self.reload_weights(weights_path=folder)
        self._pack_anew()

    def join_broadcast(self, init_info: dict[str, Any]) -> None:
        """Become a member of a group that weights are sent to.

        Args:
            init_info: as vLLM's NCCL engine takes it.
        """
        try:
            join(init_info["master_address"], init_info["master_port"])
            self.init_weight_transfer_engine(init_info)
        except BaseException:
            self.weight_transfer_engine.shutdown()
            raise

    def receive_broadcast(self, update_info: dict[str, Any]) -> None:
        """Receive weights into the running model, and leave the group.

        Args:
            update_info: as vLLM's NCCL engine takes it.
        """
        try:
            with self._forgetting_what_is_half_loaded():
                self.start_weight_update()
                self.update_weights(update_info)
                self.finish_weight_update()
        finally:
            self.weight_transfer_engine.shutdown()
        self._pack_anew()

    @contextmanager
    def _forgetting_what_is_half_loaded(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # else the next load would count the tensors that this one left behind among its own
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            model = self.model_runner.get_model()
            finalize_layerwise_reload(model, self.model_runner.model_config)  # type: ignore[no-untyped-call]
            raise

    def _pack_anew(self) -> None:
        model = self.model_runner.get_model()
        packed = [m for m in model.modules() if hasattr(m, "cpu_linear") and m.weight.ndim == 2]
        if packed:
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            for module in packed:
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def _end_with(process: psutil.Process) -> None:
    try:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(PARENT_CHECK_S)
    except psutil.NoSuchProcess:
        pass  # it ended between the two questions
    os.kill(os.getpid(), signal.SIGKILL)
