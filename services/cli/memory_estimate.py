"""How much memory a policy's training takes on each process, before anything is loaded.

Model states are those of mixed-precision AdamW under ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1 and
figure 1), but that gradients are summed in fp32; all in bytes a parameter:

             weights   gradients   optimizer
    bf16           2           4          12   (fp32 copy of the weights, two moments)
    fp32           4           4           8   (two moments)

ZeRO-1 divides the optimizer's over the processes, ZeRO-2 also the gradients, ZeRO-3 also the weights; in bf16 ZeRO-0 is
ZeRO-1. What is offloaded is in the CPU's memory. LoRA has no gradients and optimizer states but those of its adapters,
which are not counted.

Activations are those of a transformer's layers with an attention that keeps no scores: 34 bytes a token, layer and
hidden unit in bf16; with gradient checkpointing 2 bytes, and 34 for one layer at a time; twice that in fp32
(Korthikanti et al. 2022, arXiv 2205.05198, equation 1 without its last term, and section 5). A logit takes 16 bytes
when the most is held, in the backward pass: itself, its scaled copy in fp32, and parts of its gradient (measured).

A sampler keeps a key and a value for each token, layer and unit of the key-value heads.

Not counted: DeepSpeed's buffers, and what the allocator wastes.
"""

from dataclasses import dataclass
from typing import Final

from services.trainer.settings import TrainerSettings

GIB: Final = 2**30

_STATE_BYTES: Final = {"bf16": (2, 4, 12), "fp32": (4, 4, 8)}
_LAYER_BYTES: Final = {"bf16": 34, "fp32": 68}
_INPUT_BYTES: Final = {"bf16": 2, "fp32": 4}
_LOGIT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model's memory depends on; `key_value_units` are those of all key-value heads of a layer."""

    parameters: int
    layers: int
    hidden_units: int
    key_value_units: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes that one parameter of the policy takes for each process."""

    device: float
    cpu: float


def state_bytes(settings: TrainerSettings) -> StateBytes:
    """Bytes of model states a parameter; those of the reference model for a KL penalty included, which is whole."""
    weights, gradients, optimizer = _STATE_BYTES[settings.precision]
    trained = settings.lora is None
    own_weights = weights / _shards(settings, 3)
    own_gradients = trained * gradients / _shards(settings, 2)
    own_optimizer = trained * optimizer / _shards(settings, 1)
    reference = weights * (settings.kl_coefficient > 0)
    cpu = 0.0
    if settings.offload != "none":
        cpu, own_optimizer = own_optimizer, 0.0
    if settings.offload == "optimizer_and_weights":
        cpu, own_weights = cpu + own_weights, 0.0
    return StateBytes(own_weights + own_gradients + own_optimizer + reference, cpu)


def pass_bytes(settings: TrainerSettings, size: ModelSize, tokens: int) -> int:
    """Bytes that one forward and backward pass over so many tokens takes on its process."""
    a_layer = _LAYER_BYTES[settings.precision] * size.hidden_units
    if settings.gradient_checkpointing == "off":
        layers = a_layer * size.layers
    else:
        layers = a_layer + _INPUT_BYTES[settings.precision] * size.hidden_units * size.layers
    return tokens * (layers + _LOGIT_BYTES * size.vocabulary)


def longest_pass(settings: TrainerSettings) -> int:
    """Tokens of a chain with all that is forked from it, each at full length, after the longest prompt.

    Where `max_prompt_tokens` is 0 the prompt comes on top.
    """
    search = settings.search.parameters()
    branches = search.max_leaves // search.chains if settings.packing == "tree" else 1
    longest = settings.max_prompt_tokens + branches * settings.sampling.max_tokens
    return max(settings.microbatch_tokens, longest)


def cache_bytes(size: ModelSize, tokens: int, number_bytes: int) -> int:
    """Bytes of a sampler's KV cache for so many tokens, with numbers of so many bytes."""
    return tokens * 2 * size.layers * size.key_value_units * number_bytes


def _shards(settings: TrainerSettings, from_stage: int) -> int:
    stage = max(settings.zero_stage, 1) if settings.precision == "bf16" else settings.zero_stage
    return settings.processes if stage >= from_stage else 1
