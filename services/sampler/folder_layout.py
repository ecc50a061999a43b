"""Which tensors a Hugging Face folder holds, told from the headers of its safetensors files.

vLLM only warns of a missing tensor, and casts one of another type without a word.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from services.common.errors import CheckpointError
from services.common.tensor_layout import Layout, TensorKind

_INDEX = "model.safetensors.index.json"
_OUTPUT_LAYER = "lm_head.weight"


def folder_layout(folder: Path) -> Layout:
    """The tensors of a folder, as a loader finds them: the index decides which files are read, if there is one.

    An output layer that is tied to the embeddings is left out: loaders skip it, and only some writers write it.

    Raises:
        CheckpointError: a shard that the index names is missing or lacks a tensor, or a file cannot be read.
    """
    layout: Layout = {}
    try:
        for path, expected in _shards(folder).items():
            with safe_open(path, framework="numpy") as tensors:
                names = set(tensors.keys())
                if absent := sorted(expected - names):
                    raise CheckpointError(f"{path} lacks {absent[0]}, which {_INDEX} says it holds")
                for name in names:
                    tensor = tensors.get_slice(name)
                    layout[name] = TensorKind(tensor.get_dtype(), tuple(tensor.get_shape()))
        if _ties_output_layer(folder):
            layout.pop(_OUTPUT_LAYER, None)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the tensors in {folder} cannot be read: {error}") from error
    return layout


def _shards(folder: Path) -> dict[Path, set[str]]:
    """The files that a loader reads, each with the tensors that the index promises in it."""
    if not (folder / _INDEX).exists():
        return {path: set() for path in folder.glob("*.safetensors")}
    shards: dict[Path, set[str]] = {}
    for name, file in json.loads((folder / _INDEX).read_text())["weight_map"].items():
        shards.setdefault(folder / file, set()).add(name)
    return shards


def _ties_output_layer(folder: Path) -> bool:
    config = folder / "config.json"
    return config.exists() and bool(json.loads(config.read_text()).get("tie_word_embeddings"))
