"""Prompts to tokens, and tokens to text and classes: chat templates, and prompts that are too long."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import metrics
from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.fork_masks import answer_position
from services.common.settings import load_settings
from services.common.token_class import TokenClass
from services.demo.tokenizer import build_tokenizer
from services.sampler.prompts import TokenizerCodec
from services.sampler.settings import SamplerSettings

TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    "<assistant>{% if enable_thinking is defined and not enable_thinking %}<no thinking>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def codec(model: Path, **options: Any) -> TokenizerCodec:
    return TokenizerCodec(SamplerSettings(model=model, instance="test", **options))


def test_a_prompt_that_fits_is_not_touched(model: Path) -> None:
    refusing, shortening = codec(model), codec(model, prompt_overflow="keep_end")
    assert refusing.decode(refusing.encode("1+1=", 10)) == "1+1="
    assert shortening.encode("1+1=", 10) == refusing.encode("1+1=", 10)


@pytest.mark.parametrize(("overflow", "kept"), [("keep_end", "456789"), ("keep_start", "012345")])
def test_one_end_of_a_long_prompt_is_kept(model: Path, overflow: str, kept: str) -> None:
    shortening = codec(model, prompt_overflow=overflow, max_model_tokens=32)
    assert shortening.decode(shortening.encode("0123456789", 26)) == kept


@pytest.mark.parametrize(("overflow", "kept"), [("keep_end", "89"), ("keep_start", "01")])
def test_the_chat_template_stays_whole_around_a_shortened_prompt(chat_model: Path, overflow: str, kept: str) -> None:
    shortening = codec(
        chat_model, prompt_format="chat", system_prompt="Be brief.", prompt_overflow=overflow, max_model_tokens=64
    )
    around = len("<system>Be brief.<user><assistant>")
    token_ids = shortening.encode("0123456789", 64 - around - 2)
    assert shortening.decode(token_ids) == f"<system>Be brief.<user>{kept}<assistant>"


@pytest.fixture(scope="module")
def shortening(model: Path) -> dict[str, TokenizerCodec]:
    return {name: codec(model, prompt_overflow=name, max_model_tokens=40) for name in ("keep_end", "keep_start")}


@given(
    prompt=st.text(st.sampled_from("0 é→𝄞aStart with \n"), min_size=1, max_size=80),
    room=st.integers(1, 40),
    overflow=st.sampled_from(["keep_end", "keep_start"]),
)
def test_what_is_kept_fits_and_is_part_of_the_prompt(
    shortening: dict[str, TokenizerCodec], prompt: str, room: int, overflow: str
) -> None:
    try:
        token_ids = shortening[overflow].encode(prompt, 40 - room)
    except InvalidRequestError:
        assert room < 4  # bytes of one character
        return
    text = shortening[overflow].decode(token_ids)
    assert 0 < len(token_ids) <= room
    assert text
    assert prompt.endswith(text) if overflow == "keep_end" else prompt.startswith(text)


def test_shortened_prompts_are_counted(model: Path) -> None:
    shortening = codec(model, prompt_overflow="keep_end", max_model_tokens=32)
    before = metrics.SHORTENED_PROMPTS._value.get()
    shortening.encode("12", 26)
    shortening.encode("0123456789", 26)
    assert metrics.SHORTENED_PROMPTS._value.get() == before + 1


def test_a_prompt_without_room_is_refused_with_the_numbers(chat_model: Path) -> None:
    shortening = codec(chat_model, prompt_format="chat", prompt_overflow="keep_end", max_model_tokens=64)
    with pytest.raises(InvalidRequestError, match="cannot be shortened to 4 tokens, .* of the model's 64"):
        shortening.encode("0123456789", 60)


def test_a_chat_template_of_ones_own_and_its_arguments(chat_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("[{{ messages[0].content }}{{ ending }}")
    own = codec(chat_model, prompt_format="chat", chat_template=template, chat_template_arguments={"ending": "]"})
    assert own.decode(own.encode("1+1=", 10)) == "[1+1=]"
    silent = codec(chat_model, prompt_format="chat", chat_template_arguments={"enable_thinking": False})
    assert silent.decode(silent.encode("1", 10)) == "<user>1<assistant><no thinking>"


def test_template_arguments_keep_their_types_in_a_file(chat_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'[sampler]\nmodel = "{chat_model}"\nprompt_format = "chat"\n'
        '[sampler.chat_template_arguments]\nenable_thinking = false\nbudget = 3\n[sampler.adapters]\nterse = "a"\n'
    )
    read = load_settings(SamplerSettings, config)
    assert read.chat_template_arguments["enable_thinking"] is False
    assert read.chat_template_arguments["budget"] == 3
    assert read.adapters == {"terse": Path("a")}


def test_what_is_wrong_with_a_template_is_said_at_the_start(model: Path, chat_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no chat template; set prompt_format to plain"):
        codec(model, prompt_format="chat")
    with pytest.raises(ConfigurationError, match="cannot read chat_template .*nowhere.jinja: No such file"):
        codec(chat_model, prompt_format="chat", chat_template=tmp_path / "nowhere.jinja")
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for turn in messages %}")
    with pytest.raises(ConfigurationError, match="the chat template fails: .*end of template"):
        codec(chat_model, prompt_format="chat", chat_template=broken)
    with pytest.raises(ValueError, match="chat_template is given but prompt_format is plain"):
        SamplerSettings(model=model, instance="test", chat_template=broken)


def test_tokens_are_classed_by_their_text_and_special_ones_are_other(model: Path) -> None:
    plain = codec(model)
    classes = [plain.token_class(token) for token in plain.encode("7 + the\n.", 10)]
    assert classes == [
        TokenClass.DIGIT,
        TokenClass.OPERATOR,
        TokenClass.WORD,
        TokenClass.WORD,
        TokenClass.WORD,
        TokenClass.NEWLINE,
        TokenClass.PUNCTUATION,
    ]
    assert {plain.token_class(token) for token in plain.special_token_ids} == {TokenClass.OTHER}


def test_the_answer_marker_is_found_in_a_real_tokenizers_tokens(model: Path) -> None:
    plain = codec(model)
    response = plain.encode("7 * 7 -> é 9 \\boxed{9}", 10)
    assert plain.decode(response[: answer_position(response, ["\\boxed{"], plain.decode)]) == "7 * 7 -> é 9 "
    assert plain.decode(response[: answer_position(response, ["é 9"], plain.decode)]) == "7 * 7 -> é "
