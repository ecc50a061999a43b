"""A tokenizer built in code: whole words of the demo, digits one by one, bytes for everything else."""

from collections.abc import Iterator
from typing import Final

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Tokenizer

from services.demo.operations import PLAIN_OPERATIONS, TEMPTING_OPERATIONS

END_OF_TEXT: Final = "<|endoftext|>"
PADDING: Final = "<|padding|>"

# Operators carry their spaces, so that a digit is the same token wherever it stands.
SYMBOLS: Final = (
    *("Start with ", " and", " keep", " the", " last", " digit", "\\boxed{", " -> ", "1. ", "2. ", "3. ", "4. "),
    *("Write ", "def f(x)", "def f(x):", " in", " Python", ":\n", "```python\n", "\n```", "\n    ", "return "),
    *(" + ", " * ", " // ", " = "),
)


def build_tokenizer() -> Qwen2Tokenizer:
    """Build the tokenizer: any text encodes, and decoding gives back exactly that text.

    The words are added tokens over a vocabulary of bytes, because loading a Qwen2 folder rebuilds everything else
    (the splitting of text, the merges) in Qwen2's own way.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={byte: index for index, byte in enumerate(alphabet)},
        merges=[],
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
    )
    words = dict.fromkeys((*SYMBOLS, *_instruction_words()))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


def _instruction_words() -> Iterator[str]:
    for operation in (*PLAIN_OPERATIONS, *TEMPTING_OPERATIONS):
        first, *others = operation.instruction.replace("{number}", "").split()
        yield first
        yield from (f" {word}" for word in others)
