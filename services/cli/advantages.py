"""`treerl advantages`: what each segment of recorded trees is worth under an advantage."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

from services.cli.tree_records import TreeRecord, numbered_lines, parse_tree
from services.common.errors import InvalidRequestError
from services.trainer.advantages import OFFICIAL, AdvantageName, trained_leaves, weigh_segments

_BAD_ROWS = 2


def print_advantages(file: Path, advantage: str, *, as_json: bool) -> int:
    """Print the weights along every trained path of each tree, a line a tree; a row that is none is told and left out.

    Returns:
        The exit status: 0, or 2 where a row was left out.

    Raises:
        NotFoundError: the file cannot be read.
        InvalidRequestError: there is no such advantage.
    """
    known: tuple[AdvantageName, ...] = get_args(AdvantageName)
    if advantage not in known:
        raise InvalidRequestError(f"no advantage is called {advantage!r}; there are {', '.join(known)}")
    status = 0
    for number, line in numbered_lines(file):
        try:
            row = advantages_of(parse_tree(line), advantage)
        except InvalidRequestError as error:
            print(f"{file}:{number}: {error}", file=sys.stderr)
            status = _BAD_ROWS
        else:
            print(json.dumps(row) if as_json else _text(row), flush=True)
    return status


def advantages_of(record: TreeRecord, advantage: AdvantageName) -> dict[str, Any]:
    """The weights along every trained path of a tree: `{"case", "paths": [{"leaf", "segments", "values"}]}`.

    `values` holds the weight of each segment on the leaf's path: the advantage of each of its tokens in that response.
    Paths are those of all graded leaves, except that `treerl-official` trains on a selection: the row's, or else 16
    leaves that follow from its name.

    Raises:
        InvalidRequestError: the advantage is for chains and the tree is forked.
    """
    leaves = trained_leaves(record.rewards, advantage, record.seed)
    if advantage == OFFICIAL and record.selected is not None:
        leaves = tuple(record.selected)
    weighted = weigh_segments(record.pieces, record.rewards, advantage, leaves, record.reweight)
    paths = []
    for leaf in leaves:
        path = [piece for piece in weighted if leaf in piece.segment.leaf_ids]
        names = [record.names[piece.segment.id] for piece in path]
        paths.append({"leaf": leaf, "segments": names, "values": [piece.weight for piece in path]})
    return {"case": record.case, "paths": paths}


def _text(row: dict[str, Any]) -> str:
    lines = [str(row["case"])]
    for path in row["paths"]:
        values = (f"{name}: {value:+.4f}" for name, value in zip(path["segments"], path["values"], strict=True))
        lines.append(f"  leaf {path['leaf']}  " + "  ".join(values))
    return "\n".join(lines)
