"""TOML documents that configure a whole run: read, changed, and written."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.common.errors import ConfigurationError


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML document.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"config {path} is not TOML: {error}") from error


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the values of `changes` in place of its own, table by table."""
    result = dict(document)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def to_toml(document: Mapping[str, Any]) -> str:
    """Write a document of strings, numbers, booleans, lists of those, and tables; keys must be bare."""
    return "\n".join(_lines(document, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"\n[{'.'.join(path)}]"] if path else []
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    # strings, numbers, booleans and lists of them are written alike in JSON and in TOML
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        lines += _lines(value, (*path, key))
    return lines
