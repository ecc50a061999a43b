"""Runs whose trees are sampled ahead, are too old, or teach nothing."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.common.cancellation import cancel
from services.common.errors import MismatchError, UnavailableError
from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.train import train
from services.trainer.training_run import open_run
from tests.integration.fake_sampler import FakeSampler, serving
from tests.integration.trainer.training import MakeSettings, rows, run_to_end, trained_trees

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]


@pytest.mark.parametrize(("lag", "staleness"), [(0, [0, 0, 0, 0, 0]), (1, [0, 1, 1, 1, 1]), (2, [0, 1, 2, 2, 2])])
async def test_trees_are_sampled_while_earlier_steps_train_but_never_longer_ahead_than_allowed(
    make_settings: MakeSettings, sampler: FakeSampler, lag: int, staleness: list[int]
) -> None:
    sampler.drains = True  # weights are replaced once all that was asked before is sampled
    settings = make_settings(steps=5, heldout_data=None, max_policy_lag=lag, mismatch_correction="token")

    await run_to_end(settings)

    steps = rows(settings.output_dir / "metrics.jsonl")
    assert [step["staleness"] for step in steps] == staleness
    assert [step["stale_trees"] for step in steps] == [0] * 5
    assert len(trained_trees(settings)) == 5 * 2
    assert len(sampler.served) == 5 * 2  # nothing is asked that no step trains


@pytest.mark.parametrize(("lag", "first_stale"), [(0, 2), (1, 3)])
async def test_a_tree_older_than_the_bound_is_never_trained(
    make_settings: MakeSettings, sampler: FakeSampler, lag: int, first_stale: int
) -> None:
    sampler.outdated = {f"step-{step:05d}/1" for step in range(1, 5)}  # by version 0, whatever the request says
    settings = make_settings(steps=4, heldout_data=None, max_policy_lag=lag, mismatch_correction="token")

    await run_to_end(settings)

    trained = [row["tree"]["tree_id"] for row in trained_trees(settings)]
    expected = [f"step-{step:05d}/{i}" for step in range(1, 5) for i in (0, 1) if i == 0 or step < first_stale]
    assert trained == expected
    steps = rows(settings.output_dir / "metrics.jsonl")
    assert [step["stale_trees"] for step in steps] == [int(step >= first_stale) for step in range(1, 5)]
    assert max(step["staleness"] for step in steps) <= lag


async def test_a_step_of_which_every_tree_is_too_old_says_so(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.outdated = {"step-00002/0", "step-00002/1"}

    with pytest.raises(
        UnavailableError, match="step 2 has no tree to train on: 2 are of weights older than max_policy"
    ):
        await run_to_end(make_settings(heldout_data=None))


async def test_trees_that_teach_nothing_are_replaced_until_the_step_is_full(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.uniform = lambda tree_id: tree_id in {"step-00001/0", "step-00001.1/0", "step-00003/0", "step-00003/1"}
    settings = make_settings(heldout_data=None, uniform_trees="replace")

    await run_to_end(settings)

    trained = trained_trees(settings)
    assert [row["tree"]["tree_id"] for row in trained] == [
        *("step-00001/1", "step-00001.2/0"),
        *("step-00002/0", "step-00002/1"),
        *("step-00003.1/0", "step-00003.1/1"),
    ]
    assert len({row["tree"]["problem"]["id"] for row in trained if row["step"] == 1}) == 2
    steps = rows(settings.output_dir / "metrics.jsonl")
    assert [step["uniform_trees"] for step in steps] == [2, 0, 2]
    assert [step["refills"] for step in steps] == [2, 0, 1]
    assert [step["prompts"] for step in steps] == [2, 2, 2]
    # the pass rate is that of the policy, not of what is left over
    assert steps[0]["zero_variance_share"] == 0.5
    assert steps[0]["leaves"] == 4 * 6


async def test_a_step_that_cannot_be_filled_trains_on_what_it_has(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.uniform = lambda tree_id: tree_id != "step-00001/1"
    settings = make_settings(steps=1, heldout_data=None, uniform_trees="replace", max_refills=2)

    with capture_logs() as logs:
        await run_to_end(settings)

    assert [row["tree"]["tree_id"] for row in trained_trees(settings)] == ["step-00001/1"]
    (step,) = rows(settings.output_dir / "metrics.jsonl")
    assert (step["prompts"], step["uniform_trees"], step["refills"]) == (1, 3, 2)
    assert [line["event"].partition(":")[0] for line in logs if line["log_level"] == "warning"] == [
        "the step is not full"
    ]


async def test_a_run_that_can_learn_nothing_more_says_so(make_settings: MakeSettings, sampler: FakeSampler) -> None:
    sampler.uniform = lambda tree_id: tree_id.startswith("step-00002")

    with pytest.raises(UnavailableError, match=r"step 2 has no tree to train on: in \d+ all leaves got one reward"):
        await run_to_end(make_settings(heldout_data=None, uniform_trees="replace"))


async def test_a_cancelled_run_asks_for_the_same_refills_again(
    make_settings: MakeSettings, sampler: FakeSampler, tmp_path: Path
) -> None:
    sampler.uniform = lambda tree_id: hash_of(tree_id) % 3 == 0
    changes = {"steps": 5, "heldout_data": None, "uniform_trees": "replace", "checkpoint_every": 3}
    settings = make_settings(**changes)
    control, run_log = RunControl(), RunLog(settings.output_dir)
    async with open_run(settings, control, run_log) as run:
        training = asyncio.create_task(train(run))
        async for record in run_log.watch(from_step=1):
            if record.policy_version == 4:
                break
        await cancel(training)
    await run_to_end(settings)
    assert len(set(sampler.served)) == len(sampler.served)

    uninterrupted = make_settings(**changes, output_dir=tmp_path / "uninterrupted", resume="never")
    await run_to_end(uninterrupted)

    ours, theirs = ([row["tree"]["tree_id"] for row in trained_trees(s)] for s in (settings, uninterrupted))
    assert ours == theirs
    losses, expected = (
        [row["loss"] for row in rows(s.output_dir / "metrics.jsonl")] for s in (settings, uninterrupted)
    )
    assert losses == pytest.approx(expected)


def hash_of(text: str) -> int:
    return sum(text.encode())


async def test_of_two_samplers_the_one_that_kept_old_weights_is_named_within_a_step(
    make_settings: MakeSettings, model: Path, sampler: FakeSampler
) -> None:
    settings = make_settings(learning_rate=0.1, heldout_data=None, prompts_per_step=32)
    broken = FakeSampler(model, "broken")
    broken.stale = True  # it says that it loaded the new weights
    async with serving(broken, settings.redis_url, settings.run) as address:
        both = make_settings(**settings.model_dump() | {"samplers": [*settings.samplers, address]})

        with pytest.raises(MismatchError, match="step 2: .* sampler broken samples from other weights"):
            await run_to_end(both)

    assert broken.served, "all trees were served by the other sampler"
    assert [step["step"] for step in rows(settings.output_dir / "metrics.jsonl")] == [1]
