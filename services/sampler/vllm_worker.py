"""Code that runs inside vLLM's worker processes."""

import os
import signal
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

import psutil

PARENT_CHECK_S = 1.0
"""Seconds between two looks at the process that an engine serves."""


class WeightReload:
    """Worker extension (vLLM's `worker_extension_cls`): its methods become the worker's own."""

    if TYPE_CHECKING:
        model_runner: Any
        reload_weights: Any

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
        model = self.model_runner.get_model()
        try:
            self.reload_weights(weights_path=folder)
        except BaseException:
            # else the next reload would count the tensors that this one left behind among its own
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(model, self.model_runner.model_config)  # type: ignore[no-untyped-call]
            raise
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
