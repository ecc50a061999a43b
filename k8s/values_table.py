"""The chart's table of values, from its schema and defaults: `python k8s/values_table.py` writes it into the README.

A test fails where the README differs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "treerl"
BEGIN, END = "<!-- table of values -->\n", "<!-- end of the table -->\n"


def table() -> str:
    """The table in Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    lines = [f"| `{key}` | `{json.dumps(default)}` | {what} |" for key, default, what in rows(schema, values)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *lines, ""])


def rows(schema: dict[str, Any], values: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, default and meaning of every value; one whose keys are the user's own is a single row."""
    for key, described in schema["properties"].items():
        if key not in values:
            continue
        if "properties" in described:
            yield from rows(described, values[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values[key], described["description"]


def with_table(readme: str) -> str:
    """A README whose table is up to date."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    path = CHART / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
