"""LoRA adapters that a sampler serves beside the policy, by name.

They are read once, at the start; a reload replaces the policy below them and leaves them as they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from services.common.errors import ConfigurationError

EngineRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
"""A rank that vLLM reserves memory for; a smaller adapter fits too."""

ENGINE_RANKS: tuple[EngineRank, ...] = get_args(EngineRank)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the format of peft.

    Attributes:
        name: what requests call it.
        folder: holds `adapter_config.json` and the weights.
        rank: largest rank of its matrices.
    """

    name: str
    folder: Path
    rank: int


def read_adapters(folders: Mapping[str, Path]) -> list[Adapter]:
    """Look at the adapters of the settings.

    Raises:
        ConfigurationError: a folder holds no LoRA adapter.
    """
    return [Adapter(name, folder.absolute(), _rank(name, folder)) for name, folder in folders.items()]


def engine_rank(adapters: Sequence[Adapter]) -> EngineRank:
    """Rank that the engine must reserve memory for; the least where there are no adapters.

    Raises:
        ConfigurationError: an adapter is too large.
    """
    largest = max((adapter.rank for adapter in adapters), default=0)
    if largest > ENGINE_RANKS[-1]:
        raise ConfigurationError(f"an adapter has rank {largest}: expected at most {ENGINE_RANKS[-1]}")
    return next(rank for rank in ENGINE_RANKS if rank >= largest)


def _rank(name: str, folder: Path) -> int:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return max(int(rank) for rank in (config["r"], *(config.get("rank_pattern") or {}).values()))
    except OSError as error:
        raise ConfigurationError(f"adapter {name!r}: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"adapter {name!r}: {path} is no LoRA configuration of peft") from error
