"""The Hugging Face model of a policy: loading it, and its logits where they are wanted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from services.common.errors import ConfigurationError
from services.trainer.packing import Microbatch
from services.trainer.tree_attention import TreeAttention


class TargetLogits(nn.Module):
    """The model, with its language-model head applied only where a target's logits are wanted."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids_rs: Tensor, source_n: Tensor, tree_attention: TreeAttention | None = None) -> Tensor:
        """Logits (n, v) at flattened positions of the rows (r, s)."""
        of_tree = (
            {}
            if tree_attention is None
            else {"position_ids": tree_attention.position_s[None], "tree_attention": tree_attention}
        )
        hidden_rsh = self.model.base_model(input_ids=token_ids_rs, use_cache=False, **of_tree).last_hidden_state
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        logits_nv: Tensor = head(hidden_rsh.flatten(0, 1)[source_n])
        return logits_nv


def target_logits(model: Callable[..., Tensor], batch: Microbatch, device: torch.device) -> Tensor:
    """Logits (n, v) of a microbatch's targets.

    Args:
        model: a `TargetLogits`, or what wraps it.
        batch: to compute.
        device: where the model is.
    """
    token_ids_rs = torch.from_numpy(batch.token_ids_rs).to(device)
    source_n = torch.from_numpy(batch.source_n).to(device)
    return model(token_ids_rs, source_n, None if batch.layout is None else TreeAttention(batch.layout, device))


def recompute_layers(model: PreTrainedModel) -> None:
    """Have each layer forget its activations and compute them again in the backward pass (Chen et al. 2016).

    transformers' own switch works in training mode alone, in which some models drop out.

    Raises:
        ConfigurationError: the model has no layers that can.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigurationError(
            f"gradient_checkpointing: {type(model).__name__} has no layers that can be computed again; set it to off"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model folder.

    Raises:
        ConfigurationError: it is missing or cannot be loaded, or its logits are not those of `TargetLogits`.
    """
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"model folder {folder} has no config.json; expected a Hugging Face model folder")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"cannot load the model in {folder}: {first_line}") from error
    if not _has_plain_logits(model):
        raise ConfigurationError(
            f"the model in {folder} cannot be trained: {type(model).__name__} changes what its output layer computes, "
            "as by a soft cap or a scale of its logits"
        )
    return model


@torch.no_grad()
def _has_plain_logits(model: PreTrainedModel) -> bool:
    token_ids_rs = torch.tensor([[0, 1]])
    whole_rsv: Tensor = model(input_ids=token_ids_rs, use_cache=False).logits
    plain_nv = TargetLogits(model)(token_ids_rs, torch.arange(2))
    return torch.allclose(plain_nv, whole_rsv[0], rtol=1e-5, atol=1e-6)
