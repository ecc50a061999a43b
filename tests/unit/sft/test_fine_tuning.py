"""A tiny policy learns from demonstrations, into a folder that is whole or not there, also where it is killed."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.common.errors import ConfigurationError, PreconditionError
from services.demo.policy import build_policy
from services.demo.tokenizer import build_tokenizer
from services.sft.examples import Example, pad
from services.sft.fine_tuning import REPORT_FILE, Progress, Recipe, fine_tune
from services.sft.supervision import Supervision, warmup_and_decay


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Teaches a fresh policy two answers by heart."""
    folder = tmp_path_factory.mktemp("sft")
    tokenizer = build_tokenizer()
    build_policy(tokenizer, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": "Start with 7", "response": "7"}, {"prompt": "Start with 3", "response": "9"}]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "7" * 30, "response": "too long"}]))
    return Recipe(folder / "model", data, epochs=30, batch_size=2, learning_rate=3e-3, max_tokens=20)


def ignore(progress: Progress) -> None:
    """Watch nothing."""


def test_what_was_shown_is_learned_and_loads_with_the_usual_tools(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcome = fine_tune(recipe, tmp_path / "new", seen.append)
    assert (outcome.examples, outcome.too_long, outcome.steps) == (2, 1, 30)
    assert [progress.step for progress in seen] == list(range(1, 31))
    assert outcome.losses[0] > 2
    assert outcome.losses[-1] < 0.1
    model, tokenizer = (kind.from_pretrained(tmp_path / "new") for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompt = torch.tensor([tokenizer.encode("Start with 3")])
    answer = model.generate(prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "9"
    assert json.loads((tmp_path / "new" / REPORT_FILE).read_text())["losses"] == list(outcome.losses)


def test_an_existing_folder_is_refused_and_a_failure_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(PreconditionError, match="exists already"):
        fine_tune(recipe, tmp_path / "there", ignore)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(recipe, tmp_path / "new", interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


class Killed(BaseException):
    """Stands for a kill where a process of its own is not worth its start."""


def run_until(step: int, recipe: Recipe, output: Path, checkpoint_every: int) -> None:
    """Fine-tune up to a step, and break off."""

    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        fine_tune(recipe, output, stop, checkpoint_every=checkpoint_every)


def live_until(step: int, recipe: Recipe, output: Path, threads: int) -> None:
    """Fine-tune in a process of its own, and kill it at a step."""
    torch.set_num_threads(threads)  # sums are rounded alike

    def kill(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    fine_tune(recipe, output, kill, checkpoint_every=2)


def test_a_killed_one_goes_on_to_the_weights_of_one_that_was_not(recipe: Recipe, tmp_path: Path) -> None:
    ten_steps = replace(recipe, epochs=5, batch_size=1)
    expected = fine_tune(ten_steps, tmp_path / "whole", ignore)
    for step in (7, 10):
        words = step, ten_steps, tmp_path / "killed", torch.get_num_threads()
        life = multiprocessing.get_context("spawn").Process(target=live_until, args=words)
        life.start()
        life.join()
        assert life.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    seen: list[Progress] = []

    found = fine_tune(replace(ten_steps, microbatch=3), tmp_path / "killed", seen.append, checkpoint_every=2)

    assert [progress.step for progress in seen] == [8, 9, 10]
    assert found == expected
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert killed == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_only_the_same_recipe_goes_on_unless_afresh(recipe: Recipe, tmp_path: Path) -> None:
    brief = replace(recipe, epochs=3)
    run_until(2, brief, tmp_path / "new", checkpoint_every=1)
    more = tmp_path / "more.jsonl"
    more.write_text(recipe.data.read_text() * 2)

    for other, what in [(replace(brief, learning_rate=1e-4), "learning_rate"), (replace(brief, data=more), "data")]:
        with pytest.raises(PreconditionError, match=f"holds a fine-tuning with another {what} .* resume to never"):
            fine_tune(other, tmp_path / "new", ignore)
    seen: list[Progress] = []
    fine_tune(replace(brief, data=more), tmp_path / "new", seen.append, resume="never")

    assert [progress.step for progress in seen] == list(range(1, 7))


def test_a_damaged_checkpoint_is_passed_over(recipe: Recipe, tmp_path: Path) -> None:
    run_until(4, recipe, tmp_path / "new", checkpoint_every=1)
    kept = sorted((tmp_path / "new.checkpoints").iterdir())
    assert [folder.name for folder in kept] == ["step-00000002", "step-00000003"]
    (kept[1] / "state.pt").write_bytes(b"")
    seen: list[Progress] = []

    fine_tune(recipe, tmp_path / "new", seen.append)

    assert [progress.step for progress in seen] == list(range(2, 31))


def test_what_cannot_be_used_is_told(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no model in .*: expected a Hugging Face folder"):
        fine_tune(replace(recipe, model=tmp_path), tmp_path / "new", ignore)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot load a model with its tokenizer"):
        fine_tune(replace(recipe, model=tmp_path), tmp_path / "new", ignore)
    with pytest.raises(ConfigurationError, match="all 3 demonstrations have more than 2 tokens"):
        fine_tune(replace(recipe, max_tokens=2), tmp_path / "new", ignore)


def test_a_step_is_the_same_however_its_batch_is_cut() -> None:
    examples = [Example([5, 6], [7]), Example([8], [9, 10, 11, 12])]
    policies = [build_policy(build_tokenizer(), seed=0) for _ in range(2)]
    whole, cut = (Supervision(policy, 1e-3, lambda step: 1.0) for policy in policies)
    assert whole.step([pad(examples, 0)]) == pytest.approx(cut.step([pad([example], 0) for example in examples]))
    for one, other in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)  # a tenth of the step that Adam takes


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    factor = warmup_and_decay(100, warmup=0.1)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == 0
    assert warmup_and_decay(1)(0) == 1.0
