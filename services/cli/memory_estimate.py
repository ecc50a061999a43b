"""How much memory a policy's training takes on each process, before anything is loaded.

Model states are those of mixed-precision AdamW under ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1 and
figure 1): weights and gradients in the training's precision, and the optimizer's states, all in bytes a parameter:

             weights   gradients   optimizer
    bf16           2           2          12   (fp32 copy of the weights, two moments)
    fp32           4           4           8   (two moments)

ZeRO-1 divides the optimizer's over the processes, ZeRO-2 also the gradients, ZeRO-3 also the weights.

Activations are those of a transformer's layers without recomputation and with an attention that keeps no scores: 34
bytes a token, layer and hidden unit in bf16, twice that in fp32 (Korthikanti et al. 2022, arXiv 2205.05198, equation 1
without its last term). Logits are kept in fp32, about three copies: themselves, their softmax and their gradient.

Not counted: DeepSpeed's buffers, and what the allocator wastes.
"""

from dataclasses import dataclass
from typing import Final, Literal

_BYTES: Final = {"bf16": (2, 2, 12), "fp32": (4, 4, 8)}
_ACTIVATION_BYTES: Final = {"bf16": 34, "fp32": 68}
_LOGIT_COPIES: Final = 3

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model's memory depends on."""

    parameters: int
    layers: int
    hidden_units: int
    vocabulary: int


def model_state_bytes(
    precision: Literal["bf16", "fp32"], zero_stage: Literal[0, 1, 2, 3], processes: int, reference: bool
) -> float:
    """Bytes that one parameter of the policy takes on each process.

    Args:
        precision: of weights and activations.
        zero_stage: what DeepSpeed shards.
        processes: over which it does.
        reference: whether a second model is kept, whole, for a KL penalty.
    """
    weights, gradients, optimizer = _BYTES[precision]
    sharded = (weights, zero_stage >= 3), (gradients, zero_stage >= 2), (optimizer, zero_stage >= 1)
    return sum(size / processes if is_sharded else size for size, is_sharded in sharded) + weights * reference


def pass_bytes(size: ModelSize, precision: Literal["bf16", "fp32"], tokens: int) -> int:
    """Bytes that one forward and backward pass over so many tokens takes on its process."""
    of_layers = _ACTIVATION_BYTES[precision] * size.layers * size.hidden_units
    return tokens * (of_layers + _LOGIT_COPIES * 4 * size.vocabulary)
