"""Demonstrations become tokens, of which the response's alone are learned."""

import json
from collections import Counter
from pathlib import Path

import pytest

from services.common.errors import ConfigurationError
from services.demo.tokenizer import build_tokenizer
from services.sft.examples import (
    IGNORED_LABEL,
    Demonstration,
    Example,
    encoder,
    pad,
    read_demonstrations,
    shuffled_batches,
)

_ = IGNORED_LABEL


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_are_the_response_alone() -> None:
    batch = pad([Example([1, 2], [3]), Example([4], [5, 6, 7])], padding=0)
    assert batch.tokens.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    assert batch.labels.tolist() == [[_, _, 3, _], [_, 5, 6, 7]]


def test_every_epoch_sees_every_example_once_in_a_new_order() -> None:
    examples = [Example([number], [0]) for number in range(10)]
    batches = list(shuffled_batches(examples, batch_size=4, epochs=2, seed=0))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    seen = [example.prompt[0] for batch in batches for example in batch]
    assert set(Counter(seen).values()) == {2}
    assert seen[:10] != seen[10:]
    assert list(shuffled_batches(examples, 4, 2, seed=0)) == batches != list(shuffled_batches(examples, 4, 2, seed=1))


def test_a_response_ends_with_the_end_token() -> None:
    tokenizer = build_tokenizer()
    example = encoder(tokenizer, "plain", "")(Demonstration("Start with 7", "7 -> 8"))
    assert tokenizer.decode(example.prompt) == "Start with 7"
    assert tokenizer.decode(example.response[:-1]) == "7 -> 8"
    assert example.response[-1] == tokenizer.eos_token_id


def test_a_chat_template_goes_around_the_prompt() -> None:
    tokenizer = build_tokenizer()
    with pytest.raises(ConfigurationError, match="has no chat template"):
        encoder(tokenizer, "chat", "")
    tokenizer.chat_template = (
        "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    example = encoder(tokenizer, "chat", "Think.")(Demonstration("1+1=", "2"))
    assert tokenizer.decode(example.prompt) == "[system]Think.[user]1+1=[assistant]"


def test_published_columns_are_found_and_others_are_named(tmp_path: Path) -> None:
    row = {"question": "1+1=", "answer": "It is 2.\n#### 2", "solution": "2"}
    path = write(tmp_path / "rows.jsonl", row)
    assert read_demonstrations(path) == [Demonstration("1+1=", "2")]
    assert read_demonstrations(path, response_column="answer") == [Demonstration("1+1=", "It is 2.\n#### 2")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1+1="}, r"rows\.jsonl:2: no column response or completion or solution; the row has prompt"),
        ({"prompt": "1+1=", "response": 2}, r"rows\.jsonl:2: column response is 2: expected text"),
        ([], r"rows\.jsonl:2: expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "?", "response": "!"}, row)
    with pytest.raises(ConfigurationError, match=message):
        read_demonstrations(path)
