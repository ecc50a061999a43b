"""Weights on their way from the trainer to the samplers, as folders that cannot be mistaken.

    {root}/v00000012/   model.safetensors, config.json, tokenizer files, …   what any Hugging Face loader reads
                        manifest.json   version, checksum of every file, canary
                        STABLE          written last: a folder without it is not finished

The *canary* is a few token sequences with the log-probabilities that the trainer computes for them. Whoever loads the
weights computes them again: a copy of the old weights left anywhere in an engine shows at once.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from services.common.durable_folder import digest, digests, write_folder
from services.common.errors import CheckpointError

_STABLE = "STABLE"
_MANIFEST = "manifest.json"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Canary:
    """A token sequence and the trainer's logprob of each token but the first, at temperature 1, in nats.

    Raises:
        ValueError: there is not one logprob, or not as many as there should be.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.logprobs) == len(self.token_ids) - 1:
            raise ValueError(f"a canary of {len(self.token_ids)} tokens has {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A finished folder of weights.

    Attributes:
        folder: where it is.
        policy_version: optimizer steps behind the weights.
        checksum: digest over the names and digests of all files; empty where no trainer published them.
        files: SHA-256 of each file, by name.
        canaries: what an engine with these weights must compute.
    """

    folder: Path
    policy_version: int
    checksum: str
    files: dict[str, str]
    canaries: tuple[Canary, ...]


def publish(
    root: Path, policy_version: int, canaries: Sequence[Canary], write: Callable[[Path], None], keep: int = 3
) -> PublishedWeights:
    """Write a folder of weights that appears whole or not at all, and drop old ones.

    Args:
        root: folder of all versions.
        policy_version: optimizer steps behind the weights.
        canaries: sequences with the trainer's logprobs.
        write: writes the model and tokenizer files into the folder that it is given.
        keep: versions left in `root` afterwards, this one included.
    """
    folder = version_folder(root, policy_version)

    def write_all(unfinished: Path) -> None:
        write(unfinished)
        files = digests(unfinished)
        manifest = {
            "policy_version": policy_version,
            "checksum": _combined(files),
            "files": files,
            "canaries": [asdict(canary) for canary in canaries],
        }
        (unfinished / _MANIFEST).write_text(json.dumps(manifest))
        (unfinished / _STABLE).touch()

    write_folder(folder, write_all)
    for old in sorted(root.glob("v*"))[:-keep]:
        if old != folder:
            shutil.rmtree(old)
    return _manifest(folder)


def read(folder: Path) -> PublishedWeights:
    """Read and check a folder of weights.

    Raises:
        CheckpointError: it is missing or unfinished, a file is missing or differs from its checksum, or it has no
            canary by which a load could be proven.
    """
    try:
        finished, there = (folder / _STABLE).exists(), folder.exists()
    except OSError as error:
        raise CheckpointError(f"weights folder {folder} cannot be read: {error.strerror}") from error
    if not finished:
        state = "is not finished (no STABLE marker)" if there else "does not exist"
        raise CheckpointError(f"weights folder {folder} {state}; publish it again")
    weights = _manifest(folder)
    for name, expected in weights.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"weights folder {folder} lacks {name}, which its manifest lists")
        if (found := digest(path)) != expected:
            raise CheckpointError(f"{path} has checksum {found[:12]}…, its manifest says {expected[:12]}…")
    if (found := _combined(weights.files)) != weights.checksum:
        raise CheckpointError(
            f"manifest of {folder} has checksum {weights.checksum[:12]}…, its files give {found[:12]}…"
        )
    if not weights.canaries:
        raise CheckpointError(f"weights folder {folder} has no canary: nothing could prove that they were loaded")
    return weights


def unpublished(folder: Path) -> PublishedWeights:
    """A model folder that no trainer published, as version 0."""
    return PublishedWeights(folder, policy_version=0, checksum="", files={}, canaries=())


def latest(root: Path) -> PublishedWeights | None:
    """The highest version that is finished and undamaged, or None if none was ever finished.

    Raises:
        CheckpointError: every finished folder is damaged; says what is wrong with the newest.
    """
    damage: list[CheckpointError] = []
    for folder in sorted((path for path in root.glob("v*") if (path / _STABLE).exists()), reverse=True):
        try:
            return read(folder)
        except CheckpointError as error:
            log.warning("damaged weights are passed over", error=str(error))
            damage.append(error)
    if damage:
        raise damage[0]
    return None


def version_folder(root: Path, policy_version: int) -> Path:
    """Where a version's weights are."""
    return root / f"v{policy_version:08d}"


def _manifest(folder: Path) -> PublishedWeights:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return PublishedWeights(
            folder=folder,
            policy_version=int(manifest["policy_version"]),
            checksum=str(manifest["checksum"]),
            files=dict(manifest["files"]),
            canaries=tuple(Canary(tuple(c["token_ids"]), tuple(c["logprobs"])) for c in manifest["canaries"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"weights folder {folder} has no readable manifest: {error!r}") from error


def _combined(files: dict[str, str]) -> str:
    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
