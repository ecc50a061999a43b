"""Finding the program in a response. Pure, and linear in the length of the response."""

from services.verifier.languages import Language

_FENCE = "```"


def extract_program(response: str, language: Language) -> str | None:
    """The program that a response gives as its answer.

    That is the last block fenced as the language, else the last fenced block; a fence that never closes ends with the
    response. A response without a fence is the program itself if it looks like one. None if there is no program.
    """
    answer = response.rpartition("</think>")[2]
    blocks = _fenced_blocks(answer)
    of_language = [text for name, text in blocks if name in language.fences]
    if of_language:
        return of_language[-1]
    if blocks:
        return blocks[-1][1]
    return answer if language.line.search(answer) else None


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
