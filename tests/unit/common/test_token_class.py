"""The classes of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.token_class import TokenClass, token_class

TOKENS = {
    TokenClass.DIGIT: ["7", " 12", "3.", "10,", "½", "²", "٣"],
    TokenClass.OPERATOR: ["+", " = ", " -> ", "**", "(-", "^", "≤", "→", "·", "\\times", " \\leq", "-", "|"],
    TokenClass.WORD: ["So", " the", "x", "2x", "_x", "\\frac", "\\boxed{", " def f(x)", "答", "```python\n", "times"],
    TokenClass.PUNCTUATION: [".", ").", " $", "{", "\\", ".\n", ":\n", "_", '"', "`", "€", "…"],
    TokenClass.NEWLINE: ["\n", "\n\n    ", " \n", "\r\n"],
    TokenClass.OTHER: ["", " ", "    ", "\t", "�", "🙂", "\x00"],
}


@pytest.mark.parametrize(("expected", "text"), [(kind, text) for kind, texts in TOKENS.items() for text in texts])
def test_tokens_fall_into_the_class_that_the_module_promises(expected: TokenClass, text: str) -> None:
    assert token_class(text) is expected


@given(st.text(max_size=6), st.text(" \t", max_size=3), st.text(" \t", max_size=3))
def test_spaces_around_a_token_change_nothing(text: str, before: str, after: str) -> None:
    assert token_class(before + text + after) is token_class(text)
