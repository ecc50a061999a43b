"""Finding the answer in a response to a math problem. Pure, and linear in the length of the response.

In order: the last `\\boxed{…}` or `\\fbox{…}` after the reasoning; the text after the last `####`, "answer is" or
"answer:"; the last formula; the last number. All but boxes are looked for near the end of the response only.
"""

import re

MAX_ANSWER_LENGTH = 4096
"""Longest answer, in characters, that is taken for one; longer text is prose or an attack."""

_TAIL_LENGTH = 20_000

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,8}(\{)|\\boxed\s{1,8}(?=\S)")
_ANNOUNCEMENT = re.compile(
    r"####|\b(?:answers?|(?:correct|right)\s{1,3}(?:option|choice))\b(?:\s{0,3}\*{1,2})?"
    r"(?:\s{1,3}(?:is|are|equals)\b(?:\s{0,3}:)?|\s{0,3}[:=])(?:\s{0,3}\*{1,2})?",
    re.IGNORECASE,
)
_FORMULA_ENDS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_NUMBER = re.compile(
    r"(?<![\w.:])-?(?:\d{1,2}(?::\d{2}){1,2}|\d[\d,]{0,40}(?:\.\d{1,40})?|\.\d{1,40})(?:/\d{1,40})?(?:\s?\\?%)?"
)
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)|,?\s(?:because|since)\s")
_MORE_ANSWERS = re.compile(r"\s{0,4}(?:,\s{0,4}(?:or|and)?|or|and)\s{0,4}")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:or|and)\b)[A-Za-z]{2,20}\b", re.IGNORECASE)
_SENTENCE_LENGTH = 400


def extract_answer(response: str) -> str | None:
    """The final answer of a response, without its wrapping; None if there is none."""
    text = response.rpartition("</think>")[2]
    answer = _last_box(text)
    tail = text[-_TAIL_LENGTH:]
    for find in (_last_announced, _last_formula, _last_number):
        if answer is None:
            answer = find(tail)
    if answer is None:
        return None
    answer = answer.strip()
    return answer if 0 < len(answer) <= MAX_ANSWER_LENGTH else None


def is_response(text: str) -> bool:
    """Whether a text says which part of it is the answer, or is a sentence around one; else it is an answer itself."""
    if "</think>" in text or _BOX.search(text) or _ANNOUNCEMENT.search(text[-_TAIL_LENGTH:]):
        return True
    sentence = text[-_SENTENCE_LENGTH:].rstrip()
    numbers = list(_NUMBER.finditer(sentence))
    return sentence.endswith(".") and bool(numbers) and len(_WORD.findall(sentence[: numbers[-1].start()])) >= 2


def unwrap(text: str) -> str:
    """A gold answer without the box around it, where it has one."""
    stripped = text.strip()
    boxed = _last_box(stripped)
    return stripped if boxed is None else boxed.strip()


def _last_box(text: str) -> str | None:
    """Content of the last box; a box that never closes is no box, an empty one is an empty answer."""
    last: str | None = None
    end = 0
    for match in _BOX.finditer(text):
        if match.start() < end:  # inside the box before it
            continue
        if match.group(1) is None:  # `\boxed 5`
            last, end = text[match.end() : match.end() + 40].split()[0], match.end()
            continue
        closing = _closing_brace(text, match.start(1))
        if closing is None:  # then no later box closes the braces either; and looking again would be quadratic
            break
        last, end = text[match.end() : closing], closing
    return last


def _closing_brace(text: str, opening: int) -> int | None:
    """Position of the brace that closes the one at `opening`; escaped braces do not count."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _last_announced(text: str) -> str | None:
    last = None
    for match in _ANNOUNCEMENT.finditer(text):
        last = match
    if last is None:
        return None
    announced = text[last.end() : last.end() + MAX_ANSWER_LENGTH].lstrip()
    if formulas := _leading_formulas(announced):
        return " or ".join(formulas)
    sentence = _SENTENCE_END.split(announced, maxsplit=1)[0].strip().strip("*").strip()
    return sentence.rstrip(".") or None


def _leading_formulas(text: str) -> list[str]:
    """Contents of the formulas with which a text begins: one, or more with `or`, `and` or a comma between them."""
    formulas: list[str] = []
    for opening, closing in _FORMULA_ENDS:
        while text.startswith(opening) and (parts := text[len(opening) :].partition(closing))[1]:
            formulas.append(parts[0])
            link = _MORE_ANSWERS.match(parts[2])
            text = parts[2][link.end() :] if link else ""
    return formulas


def _last_formula(text: str) -> str | None:
    """Content of the formula that ends last."""
    best: tuple[int, str] | None = None
    for opening, closing in _FORMULA_ENDS:
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))
        if start == -1 or end == -1:
            continue
        content = text[start + len(opening) : end].strip("$").strip()
        if content and (best is None or end > best[0]):
            best = (end, content)
    return None if best is None else best[1]


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else last.group().rstrip(",")
