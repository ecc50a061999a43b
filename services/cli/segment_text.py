"""The text of each segment of a tree, from the policy's own tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.tree import Branch, Segment, path, segments

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(file: Path | None) -> "Tokenizer | None":
    """The tokenizer of a `tokenizer.json`; None where there is no such file."""
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def segment_texts(branches: Sequence[Branch], tokenizer: "Tokenizer | None") -> Mapping[int, str]:
    """Text by segment id; a count of tokens where there is no tokenizer."""
    return {segment.id: _text(branches, segment, tokenizer) for segment in segments(branches)}


def token_text(branches: Sequence[Branch], segment: Segment, tokenizer: "Tokenizer | None") -> str:
    """Text of a segment's first token; empty where there is no tokenizer."""
    if tokenizer is None:
        return ""
    token = branches[segment.branch_id].token_ids[segment.start - branches[segment.branch_id].fork_index]
    return str(tokenizer.decode([token], skip_special_tokens=False))


def _text(branches: Sequence[Branch], segment: Segment, tokenizer: "Tokenizer | None") -> str:
    if tokenizer is None:
        return f"({segment.end - segment.start} tokens)"
    tokens = [
        t for branch, end in path(branches, segment.branch_id) for t in branch.token_ids[: end - branch.fork_index]
    ]
    # some decoders treat the first token of a text differently: decode from the start, then cut
    before = tokenizer.decode(tokens[: segment.start], skip_special_tokens=True)
    through = tokenizer.decode(tokens[: segment.end], skip_special_tokens=True)
    return str(through[len(before) :])
