"""Training adapters, in a real DeepSpeed engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from services.common.errors import CheckpointError, ConfigurationError
from services.sampler.adapters import read_adapters
from services.trainer.advantages import WeightedTree
from services.trainer.packing import pack
from services.trainer.rows import Packing, tree_rows
from tests.integration.fake_sampler import write_tiny_model
from tests.integration.small_runs import LEARNING_RATE, make_policy, train, two_minibatches, weights

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]

LORA: dict[str, Any] = {"lora": {"rank": 4, "alpha": 6, "target_modules": ["q_proj", "down_proj"]}}
ADAPTED = [
    f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def minibatches() -> list[list[WeightedTree]]:
    return two_minibatches()


def test_a_run_begins_with_the_model_itself(model: Path, tmp_path: Path) -> None:
    found, base = weights(make_policy(model, **LORA), tmp_path / "found"), load_file(model / "model.safetensors")

    assert found.keys() == base.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in base.items())


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_what_is_published_is_the_base_with_the_adapters_added(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, zero_stage: int
) -> None:
    policy = make_policy(model, zero_stage=zero_stage, **LORA)
    train(policy, minibatches, 64)

    found, base = weights(policy, tmp_path / "found"), load_file(model / "model.safetensors")

    adapter = load_file(tmp_path / "found" / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * len(ADAPTED)
    for name, tensor in base.items():
        assert torch.equal(found[name], tensor) == (name not in ADAPTED), name
    for name in ADAPTED:
        a, b = (adapter[f"base_model.model.{name.replace('weight', f'lora_{part}.weight')}"] for part in "AB")
        assert (a.shape[0], b.shape[1]) == (4, 4)
        torch.testing.assert_close(found[name], base[name] + 6 / 4 * b @ a)


def test_peft_and_the_sampler_read_the_adapters(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path
) -> None:
    policy = make_policy(model, **LORA)
    train(policy, minibatches, 64)
    policy.write_model(tmp_path)
    ids = torch.tensor([[1, 2, 3, 4]])

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter")

    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
    logprobs = merged(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert policy.sequence_logprobs([(1, 2, 3, 4)])[0] == pytest.approx(logprobs.tolist(), abs=1e-5)
    (adapter,) = read_adapters({"mine": tmp_path / "adapter"})
    assert adapter.rank == 4


def test_packed_trees_train_adapters_as_single_responses_do(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path
) -> None:
    def trained(packing: Packing) -> dict[str, torch.Tensor]:
        policy = make_policy(model, packing=packing, lora={"rank": 4})
        assert policy.packing == packing
        train(policy, minibatches, 64)
        return weights(policy, tmp_path / packing)

    packed, flat = trained("tree"), trained("flat")

    assert all(torch.allclose(packed[name], tensor, rtol=0, atol=1e-4) for name, tensor in flat.items())
    base = load_file(model / "model.safetensors")
    assert sum(not torch.equal(packed[name], tensor) for name, tensor in base.items()) == 2 * 7


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_the_reference_is_the_model_without_its_adapters(
    model: Path, minibatches: list[list[WeightedTree]], zero_stage: int
) -> None:
    policy = make_policy(model, zero_stage=zero_stage, kl_coefficient=0.1, **LORA)
    batches = pack(tree_rows(minibatches[0][0], "tree"), "tree", 1000, "token")

    first = policy.score(batches)
    policy.update(batches, first, LEARNING_RATE)
    (second,) = policy.score(batches)

    assert second.reference_logprob_n is not None
    torch.testing.assert_close(second.reference_logprob_n, first[0].policy_logprob_n)
    assert (second.policy_logprob_n - first[0].policy_logprob_n).abs().max() > 1e-3


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_training_goes_on_from_a_checkpoint_of_the_adapters(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, zero_stage: int
) -> None:
    policy = make_policy(model, zero_stage=zero_stage, **LORA)
    train(policy, minibatches, 64)
    (tmp_path / "checkpoint").mkdir()
    policy.save(tmp_path / "checkpoint")
    train(policy, minibatches, 64)

    other = make_policy(model, zero_stage=zero_stage, **LORA)
    other.load(tmp_path / "checkpoint")
    train(other, minibatches, 64)

    expected, found = weights(policy, tmp_path / "a"), weights(other, tmp_path / "b")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(CheckpointError, match="needs lora .* set is None"):
        make_policy(model, zero_stage=zero_stage).load(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("x_proj", "lora.target_modules x_proj: Target modules .*x_proj.* not found in the base model"),
        ("embed_tokens", "lora.target_modules embed_tokens: expected linear layers that share no weights"),
        ("lm_head", "lora.target_modules lm_head: expected linear layers that share no weights"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
def test_layers_that_cannot_be_adapted_are_refused(model: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_policy(model, lora={"target_modules": [target]})
