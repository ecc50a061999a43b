"""Rows of data files: JSONL, Parquet, and folders that Hugging Face datasets saved.

Not covered: files elsewhere than on this machine, compressed JSONL, and JSON arrays.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import ConfigurationError, InvalidRequestError

_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        place: file and line or row, for messages.
        number: of the line or row; the first is 1.
        content: a line of JSON, or the values by column.
    """

    place: str
    number: int
    content: bytes | Mapping[str, Any]

    def values(self) -> Mapping[str, Any]:
        """The values by column.

        Raises:
            InvalidRequestError: the line is no JSON object, or no text.
        """
        if not isinstance(self.content, bytes):
            return self.content
        try:
            row = json.loads(self.content)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text that can be sent
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"not JSON text: {error}") from error
        if not isinstance(row, dict):
            raise InvalidRequestError(f"expected a JSON object, got {type(row).__name__}")
        return row


def read_rows(path: Path, split: str = "") -> Iterator[Row]:
    """The rows of a file or folder, in order; blank lines count as lines, but are no rows.

    Args:
        path: a folder of `datasets.save_to_disk`, a file ending in `.parquet`, or JSONL.
        split: of a folder with several.

    Raises:
        ConfigurationError: it cannot be read, or a split is missing, unknown, or given for a file.
    """
    if path.is_dir():
        return _dataset_rows(path, split)
    if split:
        raise ConfigurationError(f"data file {path} has no splits; got split {split!r}, expected none")
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:  # a line that is no text is one bad row
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Row(f"{path}:{number}", number, line)
    except OSError as error:
        raise ConfigurationError(f"cannot read data file {path}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # late: it takes a moment to load

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(_BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}:{number}", number, values)
    except (OSError, ArrowException) as error:
        raise ConfigurationError(f"cannot read data file {path}: {error}") from error


def _dataset_rows(path: Path, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk  # type: ignore[import-untyped]  # late: it takes seconds to load

    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read data folder {path}: {error}") from error
    splits = loaded if isinstance(loaded, DatasetDict) else {"": loaded}
    if split not in splits:
        known = ", ".join(splits) if isinstance(loaded, DatasetDict) else "none: the folder has no splits"
        raise ConfigurationError(f"data folder {path}: got split {split!r}, expected {known}")
    place = f"{path}/{split}" if split else str(path)
    for number, values in enumerate(splits[split], start=1):
        yield Row(f"{place}:{number}", number, values)
