"""Which tensors a model consists of: what must be the same before weights are put into it."""

from dataclasses import dataclass, replace
from typing import TypeAlias

TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of a model's weights: what torch calls each that safetensors names."""


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Type, as safetensors names it, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Layout: TypeAlias = dict[str, TensorKind]
"""Tensors by name."""


def difference(expected: Layout, found: Layout) -> str | None:
    """What sets two layouts apart, or None: the first tensor by name that is missing, surplus or of another kind."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
    return None


def of_any_precision(layout: Layout) -> Layout:
    """The layout with all floating types made one."""
    floating = {name: replace(kind, dtype="floating") for name, kind in layout.items() if kind.dtype in TORCH_TYPES}
    return layout | floating
