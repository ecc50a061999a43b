"""Prompts to tokens, and tokens to text and classes, with a tokenizer built on the spot."""

import pytest

from services.common.fork_masks import answer_position
from services.common.token_class import TokenClass
from services.demo.tokenizer import build_tokenizer
from services.sampler.prompts import TokenizerCodec


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return TokenizerCodec(folder, "plain")


def test_tokens_are_classed_by_their_text_and_special_ones_are_other(codec: TokenizerCodec) -> None:
    tokens = codec.encode("7 + the\n.")
    classes = [codec.token_class(token) for token in tokens]
    assert classes == [
        TokenClass.DIGIT,
        TokenClass.OPERATOR,
        TokenClass.WORD,
        TokenClass.WORD,
        TokenClass.WORD,
        TokenClass.NEWLINE,
        TokenClass.PUNCTUATION,
    ]
    assert {codec.token_class(token) for token in codec.special_token_ids} == {TokenClass.OTHER}


def test_the_answer_marker_is_found_in_a_real_tokenizers_tokens(codec: TokenizerCodec) -> None:
    response = codec.encode("7 * 7 -> é 9 \\boxed{9}")
    assert codec.decode(response[: answer_position(response, ["\\boxed{"], codec.decode)]) == "7 * 7 -> é 9 "
    assert codec.decode(response[: answer_position(response, ["é 9"], codec.decode)]) == "7 * 7 -> é "
