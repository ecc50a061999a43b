"""Code that runs inside vLLM's worker processes."""

from typing import TYPE_CHECKING, Any


class WeightReload:
    """Worker extension (vLLM's `worker_extension_cls`): its methods become the worker's own."""

    if TYPE_CHECKING:
        model_runner: Any
        reload_weights: Any

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
