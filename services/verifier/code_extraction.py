"""Finding the program in a response. Pure, and linear in the length of the response."""

import re

_FENCE = "```"
_PYTHON_NAMES = frozenset({"python", "py", "python3"})

# How lines of Python begin that prose does not: definitions, imports, assignments, calls, decorators, control flow.
_PYTHON_LINE = re.compile(
    r"^(?:(?:async )?def \w+\(|class \w+[:(]|import \w|from [\w.]+ import |@\w"
    r"|(?:for|while|if|with|try|else)\b[^\n]{0,200}:(?:$|\s)|(?:raise|assert|return|del|lambda) \w"
    r"|[a-z_A-Z]\w{0,60}(?:\[[^\]\n]{0,60}\])? ?(?:[-+*/%]|//|\*\*)?= ?\S|[a-zA-Z_][\w.]{0,60}\([^\n]{0,200}\)\s*$)",
    re.MULTILINE,
)


def extract_program(response: str) -> str | None:
    """The program that a response gives as its answer.

    That is the last block fenced as Python, else the last fenced block; a fence that never closes ends with the
    response. A response without a fence is the program itself if it looks like Python. None if there is no program.
    """
    answer = response.rpartition("</think>")[2]
    blocks = _fenced_blocks(answer)
    python = [text for name, text in blocks if name in _PYTHON_NAMES]
    if python:
        return python[-1]
    if blocks:
        return blocks[-1][1]
    return answer if _PYTHON_LINE.search(answer) else None


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Name and content of each fenced block that is not blank, in order."""
    blocks = []
    pieces = text.split(_FENCE)
    # Text before, block, text between, block, …
    for piece in pieces[1::2]:
        first_line, _, rest = piece.partition("\n")
        name = first_line.strip().lower()
        content = rest if " " not in name else piece
        if content.strip():
            blocks.append((name, content))
    return blocks
