"""The policy in two processes, which talk over gloo, against one process."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.common.errors import CheckpointError
from tests.conftest import REPOSITORY
from tests.integration import parallel_runs
from tests.integration.fake_sampler import write_tiny_model
from tests.integration.small_runs import make_policy, two_minibatches, weights

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]

TOLERANCE = 1e-4
"""Of weights that five updates have moved by up to 5e-2; sums in another order are rounded otherwise."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}", "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", parallel_runs.__name__, str(model), str(folder)]
    run = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return folder


# rounded to bf16, sums in another order make other signs of small gradients, and Adam's first steps follow the sign
@pytest.mark.parametrize("name", [name for name in parallel_runs.SETTINGS if name != "bf16"])
def test_two_processes_train_as_one_does(model: Path, out: Path, tmp_path: Path, name: str) -> None:
    policy = make_policy(model, **parallel_runs.SETTINGS[name])

    results = parallel_runs.measured_updates(policy, two_minibatches())

    for found, expected in zip(json.loads((out / name / "results.json").read_text()), results, strict=True):
        assert found == pytest.approx(asdict(expected), rel=1e-3, abs=1e-6)
        assert expected.grad_norm > 0.01
    trained, found = weights(policy, tmp_path / "one"), load_file(out / name / "weights" / "model.safetensors")
    assert found.keys() == trained.keys()
    for tensor, value in trained.items():
        torch.testing.assert_close(found[tensor], value, rtol=0, atol=TOLERANCE, msg=tensor)


@pytest.mark.parametrize("name", parallel_runs.SETTINGS)
def test_two_processes_send_what_they_write(out: Path, name: str) -> None:
    written, sent = load_file(out / name / "weights" / "model.safetensors"), load_file(out / name / "sent.safetensors")

    assert sent.keys() == written.keys()
    assert all(torch.equal(sent[tensor], value) for tensor, value in written.items())


@pytest.mark.parametrize("name", parallel_runs.SETTINGS)
def test_two_processes_go_on_from_their_checkpoint(out: Path, name: str) -> None:
    expected, found = (load_file(out / name / life / "model.safetensors") for life in ("later", "resumed"))

    assert all(torch.equal(found[tensor], value) for tensor, value in expected.items())
    before = load_file(out / name / "weights" / "model.safetensors")
    assert not all(torch.equal(before[tensor], value) for tensor, value in expected.items())


def test_a_checkpoint_of_two_processes_is_refused_by_one(model: Path, out: Path) -> None:
    name = "stage 2"
    policy = make_policy(model, **parallel_runs.SETTINGS[name])

    with pytest.raises(CheckpointError, match="needs processes 2, set is 1"):
        policy.load(out / name / "checkpoint")
