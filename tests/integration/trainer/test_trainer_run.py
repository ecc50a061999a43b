"""The trainer against real Valkey, real gRPC and real DeepSpeed; only what samples and grades is a stand-in."""

import asyncio
import math
from pathlib import Path

import pytest

from services.common.cancellation import cancel
from services.common.errors import CheckpointError, MismatchError, UnavailableError
from services.common.published_weights import latest
from services.trainer.run_control import RunControl, RunState
from services.trainer.run_log import RunLog
from services.trainer.train import train
from services.trainer.training_run import open_run
from tests.integration.fake_sampler import FakeSampler
from tests.integration.trainer.training import MakeSettings, rows, run_to_end, trained_trees
from treerl.sampler.v1 import sampler_service_pb2 as pb

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]


async def test_a_run_trains_evaluates_and_publishes(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    settings = make_settings()

    control = await run_to_end(settings)

    assert sampler.versions == [0, 1, 2, 3]
    assert control.checkpoint_step == 3
    steps = rows(settings.output_dir / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["staleness"] == 0 for step in steps)
    assert all(step["mismatch_mean_abs_logprob_diff"] < 1e-5 for step in steps)
    assert all(step["reload_canary_max_abs_logprob_diff"] < 1e-4 for step in steps)
    assert steps[0]["leaves"] == 2 * 6
    evaluations = rows(settings.output_dir / "evaluations.jsonl")
    assert [evaluation["policy_version"] for evaluation in evaluations] == [0, 2, 3]
    assert [row["tree"]["tree_id"] for row in trained_trees(settings)] == [
        f"step-{step:05d}/{index}" for step in (1, 2, 3) for index in (0, 1)
    ]


@pytest.mark.parametrize("packing", ["tree", "flat"])
async def test_every_part_of_the_loss_can_be_set(make_settings: MakeSettings, packing: str) -> None:
    settings = make_settings(
        steps=2,
        heldout_data=None,
        packing=packing,
        advantage="treerl-official",
        advantage_normalization="batch_std",
        loss_mean="sequence",
        kl_coefficient=0.1,
        mismatch_correction="sequence",
    )

    await run_to_end(settings)

    first, second = rows(settings.output_dir / "metrics.jsonl")
    assert first["reference_kl"] == 0 < second["reference_kl"]
    assert first["corrected_fraction"] == second["corrected_fraction"] == 0  # the engine is the trainer's model


async def test_a_run_of_adapters_publishes_merged_weights(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    settings = make_settings(lora={"rank": 4}, heldout_data=None)

    await run_to_end(settings)

    steps = rows(settings.output_dir / "metrics.jsonl")
    assert all(step["mismatch_mean_abs_logprob_diff"] < 1e-5 for step in steps)  # the samplers have what is trained
    assert steps[-1]["loss"] != steps[0]["loss"]
    newest = latest(settings.output_dir / "weights")
    assert newest is not None
    assert "adapter/adapter_config.json" in newest.files


async def test_the_learning_rate_of_a_step_is_recorded(make_settings: MakeSettings) -> None:
    settings = make_settings(heldout_data=None, learning_rate_schedule="linear", min_learning_rate=2e-3)

    await run_to_end(settings)

    steps = rows(settings.output_dir / "metrics.jsonl")
    assert [step["learning_rate"] for step in steps] == pytest.approx([10e-3, 6e-3, 2e-3])


async def test_a_cancelled_run_goes_on_as_if_nothing_had_happened(
    make_settings: MakeSettings, sampler: FakeSampler, tmp_path: Path
) -> None:
    settings = make_settings(steps=5)
    control, run_log = RunControl(), RunLog(settings.output_dir)
    async with open_run(settings, control, run_log) as run:
        training = asyncio.create_task(train(run))
        async for record in run_log.watch(from_step=1):
            if record.policy_version == 3:
                break
        await cancel(training)

    await run_to_end(settings)

    trees = trained_trees(settings)
    assert [row["tree"]["tree_id"] for row in trees] == [
        f"step-{step:05d}/{index}" for step in range(1, 6) for index in (0, 1)
    ]
    assert len(set(sampler.served)) == len(sampler.served)
    losses = [step["loss"] for step in rows(settings.output_dir / "metrics.jsonl")]
    uninterrupted = make_settings(steps=5, output_dir=tmp_path / "uninterrupted", resume="never")
    await run_to_end(uninterrupted)
    assert losses == pytest.approx([step["loss"] for step in rows(tmp_path / "uninterrupted" / "metrics.jsonl")])


async def test_a_sampler_with_stale_weights_stops_the_run(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.stale = True

    with pytest.raises(MismatchError, match="step 2: engine and trainer differ by .* sampler fake samples"):
        await run_to_end(make_settings(learning_rate=0.1))


async def test_a_sampler_that_echoes_another_checksum_stops_the_run(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.forged_checksum = "0" * 64

    with pytest.raises(MismatchError, match=r"sampler 127\.0\.0\.1:\d+ serves version 0"):
        await run_to_end(make_settings())


@pytest.mark.parametrize("difference", [0.5, math.nan])
async def test_a_sampler_whose_canary_is_wrong_stops_the_run(
    make_settings: MakeSettings, sampler: FakeSampler, difference: float
) -> None:
    sampler.forged_canary = difference

    with pytest.raises(MismatchError, match=rf"sampler 127\.0\.0\.1:\d+ .* computes its canary {difference} nats off"):
        await run_to_end(make_settings())


async def test_a_sampler_that_refuses_weights_stops_the_run_with_its_reason(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.complaint = "the engine's logprobs differ"

    with pytest.raises(
        MismatchError, match=r"sampler 127\.0\.0\.1:\d+ did not load version 0: DATA_LOSS: the engine's logprobs differ"
    ):
        await run_to_end(make_settings())


async def test_a_diverged_policy_is_never_published(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    settings = make_settings(steps=5, learning_rate=1e30, heldout_data=None)

    with pytest.raises(CheckpointError, match="of version 1 gives logprobs that are no numbers"):
        await run_to_end(settings)
    assert sampler.versions == [0]
    assert latest(settings.output_dir / "weights").policy_version == 0


async def test_samplers_are_told_what_becomes_of_requests_in_flight(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    await run_to_end(make_settings(steps=1, heldout_data=None))
    await run_to_end(make_settings(steps=1, heldout_data=None, resume="never", reload_in_flight="keep"))
    assert sampler.in_flight == [pb.IN_FLIGHT_MODE_WAIT] * 2 + [pb.IN_FLIGHT_MODE_KEEP] * 2


async def test_a_stalled_stream_ends_in_a_clear_error(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.held_back = {"step-00001/1"}

    with pytest.raises(UnavailableError, match=r"no tree of step-00001 came for 1 s: 1 of 2 are here; .* in prompts"):
        await run_to_end(make_settings(heldout_data=None, sample_timeout_s=1))


async def test_a_tree_that_was_given_up_is_done_without(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.poisoned = {"step-00001/0", "evaluation-00000/3"}
    settings = make_settings(steps=1)

    await run_to_end(settings)

    assert [row["tree"]["tree_id"] for row in trained_trees(settings)] == ["step-00001/1"]
    evaluations = rows(settings.output_dir / "evaluations.jsonl")
    assert [evaluation["problems"] for evaluation in evaluations] == [4, 5]


async def test_a_batch_that_was_given_up_stops_the_run(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.poisoned = {"step-00001/0", "step-00001/1"}

    with pytest.raises(UnavailableError, match="step 1 has no tree to train on: 2 were given up, .* too long"):
        await run_to_end(make_settings())


async def test_a_sampler_that_is_starting_is_waited_for(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.refusals = 1
    await run_to_end(make_settings(steps=1, heldout_data=None))
    assert sampler.versions == [0, 1]

    sampler.refusals = 100
    with pytest.raises(UnavailableError, match=r"sampler 127\.0\.0\.1:\d+ did not load version 1: UNAVAILABLE"):
        await run_to_end(make_settings(steps=2, reload_patience_s=0.1))


async def test_a_run_that_never_resumes_starts_afresh(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    await run_to_end(make_settings())
    settings = make_settings(steps=1, resume="never")

    await run_to_end(settings)

    assert [step["step"] for step in rows(settings.output_dir / "metrics.jsonl")] == [1]
    assert len(trained_trees(settings)) == 2
    assert sorted(folder.name for folder in (settings.output_dir / "weights").iterdir()) == ["v00000000", "v00000001"]


async def test_pause_and_checkpoint_between_steps(make_settings: MakeSettings) -> None:
    settings = make_settings(checkpoint_every=100)
    control, run_log = RunControl(), RunLog(settings.output_dir)
    async with open_run(settings, control, run_log) as run:
        training = asyncio.create_task(train(run))
        step = await control.pause()
        checkpoint = await control.save_checkpoint()
        assert control.state is RunState.PAUSED
        assert checkpoint.step == step < 3
        await control.resume()
        await training
    assert control.step == 3
