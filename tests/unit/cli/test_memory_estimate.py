"""Memory by estimate, from published formulas and sizes."""

import pytest

from services.cli.memory_estimate import GIB, ModelSize, model_state_bytes, pass_bytes

QWEN_14B = ModelSize(14_770_033_664, layers=48, hidden_units=5120, vocabulary=152_064)


def test_the_zero_paper_s_own_example() -> None:
    # figure 1: 7.5 billion parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB
    figures = [7.5 * model_state_bytes("bf16", stage, 64, reference=False) for stage in (0, 1, 2, 3)]
    assert figures == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_fp32_and_bf16_take_the_same_on_one_process() -> None:
    assert model_state_bytes("fp32", 3, 1, reference=False) == model_state_bytes("bf16", 0, 1, reference=False) == 16


def test_a_reference_model_is_whole_on_every_process() -> None:
    alone, beside = (model_state_bytes("bf16", 3, 8, reference=reference) for reference in (False, True))
    assert (alone, beside) == (2, 4)


def test_a_pass_over_one_long_response_of_fourteen_billion_parameters() -> None:
    # layers: 8192 · 48 · 5120 · 34 bytes = 63.75 GiB; logits: 3 · 8192 · 152,064 · 4 bytes = 13.92 GiB
    assert pass_bytes(QWEN_14B, "bf16", 8192) / GIB == pytest.approx(63.75 + 13.92, abs=0.01)
