"""What checkpoints of real runs are good for: going on when one is damaged, and exporting the policy."""

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from services.cli.export import export_policy
from services.cli.run_folder import RunFolder
from services.common.cancellation import cancel
from services.common.errors import CheckpointError, ConfigurationError, InvalidRequestError, NotFoundError
from services.common.published_weights import version_folder
from services.common.streams import Streams, connect
from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.settings import TrainerSettings
from services.trainer.train import train
from services.trainer.training_run import open_run
from tests.integration.fake_sampler import FakeSampler
from tests.integration.trainer.training import MakeSettings, rows, run_to_end, trained_tree_ids

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]


def checkpoint(settings: TrainerSettings, step: int) -> Path:
    return settings.output_dir / "checkpoints" / f"step-{step:08d}"


def flip_a_bit(folder: Path) -> Path:
    """Damage the largest file of a folder in the middle."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


async def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    await run_to_end(make_settings(steps=4))
    settings = make_settings(steps=6)
    damaged = flip_a_bit(checkpoint(settings, 4))

    with capture_logs() as logs:
        await run_to_end(settings)

    (told,) = [line for line in logs if line["event"] == "damaged checkpoint passed over"]
    assert str(damaged) in told["error"]
    assert [line["step"] for line in logs if line["event"] == "starting"] == [2]
    assert trained_tree_ids(settings.output_dir) == [f"step-{step:05d}/{i}" for step in range(1, 7) for i in (0, 1)]
    uninterrupted = make_settings(steps=6, output_dir=tmp_path / "uninterrupted", resume="never")
    await run_to_end(uninterrupted)
    ours, theirs = ([row["loss"] for row in rows(s.output_dir / "metrics.jsonl")] for s in (settings, uninterrupted))
    assert ours == pytest.approx(theirs)


async def test_going_back_to_an_earlier_checkpoint_does_not_wait_for_prompts_that_ask_for_later_weights(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    settings = make_settings(steps=6, heldout_data=None)
    sampler.idle_from = 4
    control, run_log = RunControl(), RunLog(settings.output_dir)
    async with open_run(settings, control, run_log) as run:
        training = asyncio.create_task(train(run))
        redis = await connect(settings.redis_url)
        batches = Streams(redis, settings.run, "test").key("batches")
        while not await redis.hexists(batches, "step-00005"):  # which asks for trees of version 4
            await asyncio.sleep(0.01)
        await redis.aclose()
        await cancel(training)
    flip_a_bit(checkpoint(settings, 4))

    running = asyncio.create_task(run_to_end(settings))
    while sampler.versions[-1] != 2:
        await asyncio.sleep(0.01)
    sampler.idle_from = math.inf
    await running

    assert trained_tree_ids(settings.output_dir) == [f"step-{step:05d}/{i}" for step in range(1, 7) for i in (0, 1)]


async def test_as_many_checkpoints_stay_as_are_wanted(make_settings: MakeSettings) -> None:
    settings = make_settings(steps=5, checkpoint_every=1, keep_checkpoints=3, heldout_data=None)

    await run_to_end(settings)

    assert sorted(path.name for path in (settings.output_dir / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (3, 4, 5)
    ]


@pytest.fixture
def chat_model(model: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template and sampling defaults of its own."""
    folder = shutil.copytree(model, tmp_path / "chat-model")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}=")
    GenerationConfig(temperature=0.7, do_sample=True, eos_token_id=0).save_pretrained(folder)
    return folder


async def test_an_exported_policy_is_the_published_one_to_transformers(
    make_settings: MakeSettings, chat_model: Path, tmp_path: Path
) -> None:
    settings = make_settings(model=chat_model, steps=4, heldout_data=None, learning_rate=0.1)
    await run_to_end(settings)
    run = RunFolder(settings.output_dir)

    exported = {step: export_policy(run, step, tmp_path / f"exported-{step}").step for step in (2, 4)}
    export_policy(run, None, tmp_path / "newest")

    assert exported == {2: 2, 4: 4}
    logits = {step: logits_of(tmp_path / f"exported-{step}") for step in (2, 4)}
    for step in (2, 4):
        assert torch.equal(logits[step], logits_of(version_folder(settings.output_dir / "weights", step)))
    assert not torch.allclose(logits[2], logits[4])
    assert torch.equal(logits_of(tmp_path / "newest"), logits[4])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "newest")
    turns = [{"role": "user", "content": "1+1"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "1+1="
    assert GenerationConfig.from_pretrained(tmp_path / "newest").temperature == 0.7
    assert not [name for name in ("STABLE", "manifest.json") if (tmp_path / "newest" / name).exists()]


def logits_of(folder: Path) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.arange(1, 12)[None]).logits
    return logits


async def test_the_chat_template_that_the_run_sampled_with_is_exported(
    make_settings: MakeSettings, chat_model: Path, tmp_path: Path
) -> None:
    settings = make_settings(model=chat_model, steps=1, heldout_data=None)
    await run_to_end(settings)
    own = tmp_path / "own.jinja"
    (settings.output_dir / "config.toml").write_text(f"[sampler]\nchat_template = {json.dumps(str(own))}\n")
    run = RunFolder(settings.output_dir)

    with pytest.raises(ConfigurationError, match="own.jinja"):
        export_policy(run, None, tmp_path / "exported")
    own.write_text("Q: {{ messages[0].content }}")
    export_policy(run, None, tmp_path / "exported")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1+1"}], tokenize=False) == "Q: 1+1"


async def test_what_cannot_be_exported_is_told(
    make_settings: MakeSettings, sampler: FakeSampler, tmp_path: Path
) -> None:
    settings = make_settings(steps=2, checkpoint_every=1, heldout_data=None)
    settings.output_dir.mkdir()
    run, output = RunFolder(settings.output_dir), tmp_path / "exported"
    with pytest.raises(NotFoundError, match="has no checkpoint yet"):
        export_policy(run, None, output)
    await run_to_end(settings)

    with pytest.raises(NotFoundError, match="has no checkpoint of step 7; there are: 1, 2"):
        export_policy(run, 7, output)
    with pytest.raises(InvalidRequestError, match="is not an empty folder"):
        export_policy(run, None, settings.output_dir)
    damaged = flip_a_bit(checkpoint(settings, 2) / "model")
    with pytest.raises(CheckpointError, match=f"{damaged.name} is missing, unexpected or differs"):
        export_policy(run, 2, output)
    assert not output.exists()
    assert export_policy(run, None, output).step == 1
