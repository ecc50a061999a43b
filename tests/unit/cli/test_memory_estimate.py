"""Memory by estimate, from published formulas and sizes."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.memory_estimate import (
    GIB,
    ModelSize,
    StateBytes,
    cache_bytes,
    longest_pass,
    pass_bytes,
    state_bytes,
)
from services.trainer.settings import TrainerSettings

QWEN_14B = ModelSize(14_770_033_664, layers=48, hidden_units=5120, key_value_units=8 * 128, vocabulary=152_064)


def training(**changes: Any) -> TrainerSettings:
    base = {"model": Path("m"), "output_dir": Path("o"), "train_data": Path("d"), "samplers": ("s:1",), "steps": 1}
    return TrainerSettings(**{**base, "precision": "bf16", **changes})


def test_the_zero_paper_s_own_example() -> None:
    # figure 1: 7.5 billion parameters on 64 GPUs: 31.4, 16.6 and 1.9 GB; here gradients take 2 bytes more each
    figures = [7.5 * state_bytes(training(zero_stage=stage, processes=64)).device for stage in (1, 2, 3)]
    assert figures == pytest.approx([31.4 + 15, 16.6 + 15 / 64, 1.9 + 15 / 64], abs=0.05)


def test_states_of_one_process() -> None:
    assert state_bytes(training(precision="fp32")) == StateBytes(4 + 4 + 8, 0)
    assert state_bytes(training()) == StateBytes(2 + 4 + 12, 0)


def test_without_zero_processes_divide_nothing_in_fp32_and_the_optimizer_s_states_in_bf16() -> None:
    assert state_bytes(training(precision="fp32", processes=4)) == StateBytes(4 + 4 + 8, 0)
    assert state_bytes(training(processes=4)) == StateBytes(2 + 4 + 12 / 4, 0)


def test_a_reference_model_is_whole_on_every_process() -> None:
    assert state_bytes(training(zero_stage=3, processes=8)).device == 18 / 8
    assert state_bytes(training(zero_stage=3, processes=8, kl_coefficient=0.1)).device == 18 / 8 + 2


def test_what_is_offloaded_is_in_the_cpu_s_memory() -> None:
    sharded = {"zero_stage": 3, "processes": 4}
    assert state_bytes(training(**sharded, offload="optimizer")) == StateBytes(0.5 + 1, 3)
    assert state_bytes(training(**sharded, offload="optimizer_and_weights")) == StateBytes(1, 3.5)


def test_lora_keeps_the_weights_alone() -> None:
    assert state_bytes(training(lora={"rank": 8})) == StateBytes(2, 0)


def test_a_pass_over_one_long_response_of_fourteen_billion_parameters() -> None:
    # layers: 8192 · 48 · 5120 · 34 bytes = 63.75 GiB; logits: 8192 · 152,064 · 16 bytes = 18.56 GiB
    assert pass_bytes(training(), QWEN_14B, 8192) / GIB == pytest.approx(63.75 + 18.56, abs=0.01)
    # checkpointed: 8192 · 5120 · (48 · 2 + 34) bytes = 5.08 GiB
    checkpointed = pass_bytes(training(gradient_checkpointing="layers"), QWEN_14B, 8192)
    assert checkpointed / GIB == pytest.approx(5.08 + 18.56, abs=0.01)


def test_the_longest_pass_of_packed_trees_is_a_chain_with_its_forks() -> None:
    shape = {"search": {"chains": 6, "forks": 2, "rounds": 1, "branches": 2}, "sampling": {"max_tokens": 4096}}
    assert longest_pass(training(**shape)) == (1 + 2 * 2) * 4096
    assert longest_pass(training(**shape, packing="flat", microbatch_tokens=1024)) == 4096
    assert longest_pass(training(**shape, max_prompt_tokens=100)) == 100 + (1 + 2 * 2) * 4096


def test_the_key_value_cache_of_one_long_response() -> None:
    # 48 layers · 8 heads · 128 units · key and value · 2 bytes = 192 KiB a token
    assert cache_bytes(QWEN_14B, 1, 2) == 192 * 1024
