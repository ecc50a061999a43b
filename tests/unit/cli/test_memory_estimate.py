"""Memory by estimate, from published formulas and sizes."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.memory_estimate import GIB, ModelSize, StateBytes, longest_pass, pass_bytes, state_bytes
from services.trainer.settings import TrainerSettings

QWEN_14B = ModelSize(14_770_033_664, layers=48, hidden_units=5120, vocabulary=152_064)


def training(**changes: Any) -> TrainerSettings:
    base = {"model": Path("m"), "output_dir": Path("o"), "train_data": Path("d"), "samplers": ("s:1",), "steps": 1}
    return TrainerSettings(**{**base, "precision": "bf16", **changes})


def test_the_zero_paper_s_own_example() -> None:
    # figure 1: 7.5 billion parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB
    figures = [7.5 * state_bytes(training(zero_stage=stage, processes=64)).device for stage in (0, 1, 2, 3)]
    assert figures == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_fp32_and_bf16_take_the_same_on_one_process() -> None:
    assert state_bytes(training(precision="fp32")) == state_bytes(training()) == StateBytes(16, 0)


def test_a_reference_model_is_whole_on_every_process() -> None:
    assert state_bytes(training(zero_stage=3, processes=8)).device == 2
    assert state_bytes(training(zero_stage=3, processes=8, kl_coefficient=0.1)).device == 4


def test_what_is_offloaded_is_in_the_cpu_s_memory() -> None:
    sharded = {"zero_stage": 3, "processes": 4}
    assert state_bytes(training(**sharded, offload="optimizer")) == StateBytes(0.5 + 0.5, 3)
    assert state_bytes(training(**sharded, offload="optimizer_and_weights")) == StateBytes(0.5, 3.5)


def test_lora_keeps_the_weights_alone() -> None:
    assert state_bytes(training(lora={"rank": 8})) == StateBytes(2, 0)


def test_a_pass_over_one_long_response_of_fourteen_billion_parameters() -> None:
    # layers: 8192 · 48 · 5120 · 34 bytes = 63.75 GiB; logits: 3 · 8192 · 152,064 · 4 bytes = 13.92 GiB
    assert pass_bytes(training(), QWEN_14B, 8192) / GIB == pytest.approx(63.75 + 13.92, abs=0.01)
    # checkpointed: 8192 · 5120 · (48 · 2 + 34) bytes = 5.08 GiB
    checkpointed = pass_bytes(training(gradient_checkpointing="layers"), QWEN_14B, 8192)
    assert checkpointed / GIB == pytest.approx(5.08 + 13.92, abs=0.01)


def test_the_longest_pass_of_packed_trees_is_a_chain_with_its_forks() -> None:
    shape = {"search": {"chains": 6, "forks": 2, "rounds": 1, "branches": 2}, "sampling": {"max_tokens": 4096}}
    assert longest_pass(training(**shape)) == (1 + 2 * 2) * 4096
    assert longest_pass(training(**shape, packing="flat", microbatch_tokens=1024)) == 4096
