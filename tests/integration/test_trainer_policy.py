"""The policy in a real DeepSpeed engine, against plain PyTorch."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM, Gemma2Config, MambaConfig

from services.common.errors import CheckpointError, ConfigurationError
from services.trainer.advantages import WeightedTree, weigh_tree
from services.trainer.language_model import TargetLogits, load_model, recompute_layers, target_logits
from services.trainer.loss import token_logprobs, token_scores
from services.trainer.objective import Objective
from services.trainer.packing import LossMean, pack
from services.trainer.policy import UpdateResult
from services.trainer.rows import Packing, Row, tree_rows
from tests.builders import random_tree
from tests.integration.fake_sampler import VOCABULARY, write_tiny_model
from tests.integration.small_runs import LEARNING_RATE, make_policy, train, two_minibatches, weights

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]

TEMPERATURE, CLIP_LOW, CLIP_HIGH = 1.2, 0.8, 1.26


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def minibatches() -> list[list[WeightedTree]]:
    return two_minibatches()


def train_plainly(
    model: Path, minibatches: list[list[WeightedTree]], mean: LossMean = "token", kl_coefficient: float = 0.0
) -> tuple[dict[str, torch.Tensor], list[UpdateResult]]:
    """The same updates one response at a time in plain PyTorch."""
    module: Any = AutoModelForCausalLM.from_pretrained(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    rows_of_minibatches = [[row for tree in trees for row in tree_rows(tree, "flat")] for trees in minibatches]

    def logprobs(row: Row) -> torch.Tensor:
        ids = torch.tensor([[*row.prompt_token_ids, *row.token_ids_n]])
        logprob_sv = (module(ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
        return logprob_sv.gather(-1, ids[0, 1:, None])[-len(row.weight_n) :, 0]

    with torch.no_grad():
        old = [[logprobs(row) for row in rows] for rows in rows_of_minibatches]
    results = []
    for rows, old_of_rows in zip(rows_of_minibatches, old, strict=True):
        tokens = sum(len(row.weight_n) for row in rows)
        loss, clipped = torch.zeros(()), 0
        for row, old_logprob_n in zip(rows, old_of_rows, strict=True):
            new_logprob_n, weight_n = logprobs(row), torch.from_numpy(row.weight_n)
            ratio_n = (new_logprob_n - old_logprob_n).exp()
            free_n, clipped_n = ratio_n * weight_n, ratio_n.clamp(CLIP_LOW, CLIP_HIGH) * weight_n
            divisor = tokens if mean == "token" else len(rows) * len(row.weight_n)
            # the scores before the first update are the reference's, because the run starts from it
            kl_n = (old_logprob_n - new_logprob_n).exp() - 1 - (old_logprob_n - new_logprob_n)
            loss = loss + (kl_coefficient * kl_n - torch.minimum(free_n, clipped_n)).sum() / divisor
            clipped += int((clipped_n < free_n).sum())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0).item()
        optimizer.step()
        results.append(UpdateResult(loss.item(), norm, clipped / tokens, 0.0))
    return {name: p.detach() for name, p in module.named_parameters()}, results


def assert_alike(
    found: tuple[dict[str, torch.Tensor], list[UpdateResult]],
    expected: tuple[dict[str, torch.Tensor], list[UpdateResult]],
) -> None:
    for ours, plain in zip(found[1], expected[1], strict=True):
        # the second update is measured on weights that may differ by what is allowed below, times their gradient
        assert asdict(ours) == pytest.approx(asdict(plain), rel=1e-4, abs=1e-5)
    assert found[0].keys() == expected[0].keys()  # tied weights are written once
    for name, tensor in expected[0].items():
        torch.testing.assert_close(found[0][name], tensor, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("packing", ["tree", "flat"])
@pytest.mark.parametrize(("zero_stage", "token_budget"), [(0, 1), (0, 10_000), (0, 64), (1, 64), (2, 64), (3, 64)])
def test_updates_equal_plain_pytorch(
    model: Path,
    minibatches: list[list[WeightedTree]],
    tmp_path: Path,
    zero_stage: int,
    token_budget: int,
    packing: Packing,
) -> None:
    policy = make_policy(model, zero_stage=zero_stage, packing=packing)
    results = train(policy, minibatches, token_budget)

    assert policy.packing == packing
    assert_alike((weights(policy, tmp_path / "found"), results), train_plainly(model, minibatches))


@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_a_mean_over_responses_equals_plain_pytorch(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, packing: Packing
) -> None:
    policy = make_policy(model, packing=packing)
    results = train(policy, minibatches, 64, "sequence")

    assert_alike((weights(policy, tmp_path / "found"), results), train_plainly(model, minibatches, "sequence"))


@pytest.mark.parametrize(("packing", "zero_stage"), [("tree", 0), ("tree", 3), ("flat", 0)])
def test_a_penalty_for_leaving_the_reference_equals_plain_pytorch(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, packing: Packing, zero_stage: int
) -> None:
    policy = make_policy(model, packing=packing, zero_stage=zero_stage, kl_coefficient=5.0)
    results = train(policy, minibatches, 64)

    expected = train_plainly(model, minibatches, kl_coefficient=5.0)
    assert_alike((weights(policy, tmp_path / "found"), results), expected)
    assert expected[1][1].grad_norm != pytest.approx(train_plainly(model, minibatches)[1][1].grad_norm, rel=1e-2)


@pytest.mark.parametrize(
    ("zero_stage", "memory"),
    [
        (0, {"gradient_checkpointing": "layers"}),
        (0, {"gradient_checkpointing": "layers", "packing": "flat"}),
        (1, {"offload": "optimizer"}),
        (2, {"offload": "optimizer"}),
        (3, {"offload": "optimizer_and_weights", "gradient_checkpointing": "layers"}),
    ],
)
def test_what_saves_memory_changes_no_update(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, zero_stage: int, memory: dict[str, Any]
) -> None:
    plain = make_policy(model, zero_stage=zero_stage, packing=memory.get("packing", "tree"))
    saving = make_policy(model, zero_stage=zero_stage, **memory)

    results = [train(policy, minibatches, 64) for policy in (plain, saving)]

    for expected, found in zip(*results, strict=True):
        # a loss near 0 is a sum of terms of about 1, each with its rounding in fp32
        assert asdict(found) == pytest.approx(asdict(expected), rel=1e-6, abs=1e-7)
    expected, found = weights(plain, tmp_path / "plain"), weights(saving, tmp_path / "saving")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4, msg=name)


def test_layers_are_computed_again_in_the_backward_pass(model: Path) -> None:
    module = load_model(model, torch.float32).eval()
    computed = []
    for layer in module.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: computed.append("layer"))
    recompute_layers(module)

    logits_bsv = module(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).logits
    assert len(computed) == 2
    logits_bsv.sum().backward()
    assert len(computed) == 4


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    bare = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=0))

    with pytest.raises(ConfigurationError, match="MambaForCausalLM has no layers that can be computed again"):
        recompute_layers(bare)


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1])
def test_a_reference_is_kept_only_where_it_is_needed(
    model: Path, minibatches: list[list[WeightedTree]], kl_coefficient: float
) -> None:
    policy = make_policy(model, kl_coefficient=kl_coefficient)
    batches = pack(tree_rows(minibatches[0][0], "tree"), "tree", 1000, "token")

    first = policy.score(batches)
    policy.update(batches, first, LEARNING_RATE)
    (second,) = policy.score(batches)

    if kl_coefficient:
        assert second.reference_logprob_n is not None
        torch.testing.assert_close(second.reference_logprob_n, first[0].policy_logprob_n)
    else:
        assert second.reference_logprob_n is None


@pytest.mark.parametrize(("precision", "zero_stage"), [("fp32", 0), ("fp32", 3), ("bf16", 0), ("bf16", 3)])
def test_training_goes_on_from_a_checkpoint(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path, precision: str, zero_stage: int
) -> None:
    policy = make_policy(model, precision=precision, zero_stage=zero_stage)
    train(policy, minibatches, 64)
    policy.save(tmp_path)
    train(policy, minibatches, 64)

    other = make_policy(model, precision=precision, zero_stage=zero_stage)
    other.load(tmp_path)
    train(other, minibatches, 64)

    expected, found = weights(policy, tmp_path / "a"), weights(other, tmp_path / "b")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    make_policy(model).save(tmp_path)
    write_tiny_model(tmp_path / "wider", hidden_size=64)

    with pytest.raises(CheckpointError, match="does not fit this model"):
        make_policy(tmp_path / "wider").load(tmp_path)


@pytest.mark.parametrize(("saved", "loaded"), [(0, 2), (2, 0), (3, 1)])
def test_a_checkpoint_of_another_zero_stage_is_refused(model: Path, tmp_path: Path, saved: int, loaded: int) -> None:
    make_policy(model, zero_stage=saved).save(tmp_path)

    with pytest.raises(CheckpointError, match="zero_stage"):
        make_policy(model, zero_stage=loaded).load(tmp_path)


def test_bf16_trains_and_publishes_bf16(model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path) -> None:
    policy = make_policy(model, precision="bf16")

    results = train(policy, minibatches, 64)

    assert all(result.grad_norm > 0 for result in results)
    assert {tensor.dtype for tensor in weights(policy, tmp_path / "found").values()} == {torch.bfloat16}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_bf16_gradients_of_many_microbatches_are_summed_in_fp32(model: Path, zero_stage: int) -> None:
    from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import-untyped]

    rng = random.Random(0)
    step = [weigh_tree(random_tree(rng, VOCABULARY, forks=4), "treerl") for _ in range(8)]
    batches = pack([row for tree in step for row in tree_rows(tree, "flat")], "flat", 1, "token")
    policy = make_policy(model, precision="bf16", zero_stage=zero_stage, packing="flat", max_grad_norm=100)
    policy.update(batches, policy.score(batches), LEARNING_RATE)
    # Adam's first moment after one step is the gradient times 1 - beta
    moments = [safe_get_full_optimizer_state(p, "exp_avg") for p in policy._model.parameters()]

    module, expected = load_model(model, torch.bfloat16).eval(), torch.zeros(())
    for batch in batches:
        logits_nv = target_logits(TargetLogits(module), batch, torch.device("cpu"))
        target_n = torch.from_numpy(batch.target_n)
        scores = token_scores(logits_nv.detach(), target_n, TEMPERATURE)
        loss = Objective(CLIP_LOW, CLIP_HIGH).loss(token_logprobs(logits_nv, target_n, TEMPERATURE), batch, scores)
        torch.autograd.backward(loss.total)
        expected = expected + torch.cat([p.grad.flatten().float() for p in module.parameters() if p.grad is not None])
        module.zero_grad()
    found = torch.cat([moment.flatten() for moment in moments]) / (1 - 0.9)
    assert (found - expected).norm() <= 3e-3 * expected.norm()  # summed in bf16: 1e-2


def test_a_minibatch_without_weight_takes_no_step(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path
) -> None:
    policy = make_policy(model)
    before = weights(policy, tmp_path / "before")

    (result,) = train(policy, [[minibatches[0][1]]], 64)

    assert result == UpdateResult(0.0, 0.0, 0.0, 0.0)
    after = weights(policy, tmp_path / "after")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_learning_rate_is_that_of_each_update(
    model: Path, minibatches: list[list[WeightedTree]], tmp_path: Path
) -> None:
    policy = make_policy(model)
    batches = pack(tree_rows(minibatches[0][0], "tree"), "tree", 1000, "token")
    scores = policy.score(batches)
    written = []
    for number, rate in enumerate([0.0, 1e-3, 0.0]):
        policy.update(batches, scores, rate)
        written.append(weights(policy, tmp_path / str(number))["model.norm.weight"])

    assert torch.equal(written[0], torch.ones(32))
    # whatever its gradient, Adam's first steps move a weight by about the rate
    assert 0.5e-3 < (written[1] - written[0]).abs().max() < 1.1e-3
    assert torch.equal(written[2], written[1])


def test_sequence_logprobs_are_the_models(model: Path) -> None:
    sequences = [(1, 2, 3, 4), (5, 6)]
    module: Any = AutoModelForCausalLM.from_pretrained(model)

    found = make_policy(model).sequence_logprobs(sequences)

    for token_ids, logprobs in zip(sequences, found, strict=True):
        ids = torch.tensor([token_ids])
        expected = module(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_model_that_cannot_pack_trains_on_single_responses_and_says_so(
    minibatches: list[list[WeightedTree]], tmp_path: Path
) -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)

    with capture_logs() as logs:
        policy = make_policy(tmp_path)
    results = train(policy, minibatches, 64)

    assert policy.packing == "flat"
    assert [line["event"] for line in logs] == ["this model trains on single responses, not on packed trees"]
    assert all(result.grad_norm > 0 for result in results)


def test_a_model_that_changes_its_logits_is_refused(tmp_path: Path) -> None:
    # with wider weights than a fresh model has, so that its logits are as large as a trained one has them
    config = Gemma2Config(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=8)
    config.initializer_range = 1.0
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)

    with pytest.raises(ConfigurationError, match="Gemma2ForCausalLM changes what its output layer computes"):
        load_model(tmp_path, torch.float32)


def test_a_missing_or_broken_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no config.json"):
        make_policy(tmp_path / "nothing")
    write_tiny_model(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot load the model") as caught:
        make_policy(tmp_path / "broken")
    assert "\n" not in str(caught.value)
