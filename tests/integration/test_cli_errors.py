"""Mistakes that users make, as they meet them: one line on standard error, a non-zero exit status, no traceback."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.cli.main import main

Treerl = Callable[..., None]


@pytest.fixture
def treerl_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Treerl:
    """Runs a command line that must fail with one line, which must hold all the given parts."""

    def run(*words: str, because: Sequence[str]) -> None:
        monkeypatch.setattr("sys.argv", ["treerl", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert [part for part in because if part not in line] == []

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that is right, for a model that is there."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").touch()
    path = tmp_path / "run.toml"
    path.write_text(
        f'redis_url = "redis://127.0.0.1:1/0"\n'
        f'[sampler]\nmodel = "{model}"\n[verifier]\n'
        f'[trainer]\nmodel = "{model}"\noutput_dir = "{tmp_path / "run"}"\n'
        f'train_data = "{tmp_path / "train.jsonl"}"\nsamplers = ["127.0.0.1:1"]\nsteps = 1\n'
    )
    return path


@pytest.mark.parametrize("command", ["up", "train"])
def test_a_dead_redis(command: str, config: Path, treerl_fails: Treerl) -> None:
    treerl_fails(command, "--config", str(config), because=["no Redis answers at redis://127.0.0.1:1/0"])


@pytest.mark.parametrize("command", ["up", "train"])
def test_a_misspelt_key(command: str, config: Path, treerl_fails: Treerl) -> None:
    config.write_text(config.read_text() + "learning_rat = 1e-3\n")
    treerl_fails(
        command, "--config", str(config), because=[f"config {config}: unknown key 'learning_rat'", "[trainer]"]
    )


@pytest.mark.parametrize("command", ["up", "train"])
def test_a_missing_model_folder(command: str, config: Path, treerl_fails: Treerl) -> None:
    config.write_text(config.read_text().replace("/model", "/nowhere"))
    treerl_fails(command, "--config", str(config), because=["nowhere does not exist or holds no config.json"])


@pytest.mark.parametrize("command", ["up", "train"])
def test_a_busy_port(command: str, config: Path, treerl_fails: Treerl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config.write_text(config.read_text() + f"port = {port}\n")
        treerl_fails(command, "--config", str(config), because=[f"port {port} of 127.0.0.1", "trainer", "in use"])


def test_an_unknown_method(treerl_fails: Treerl) -> None:
    treerl_fails("demo", "--method", "magic", because=["'magic' is not one of 'treerl', 'chainrl', 'grpo', 'dapo'"])


def test_a_config_that_is_not_there(treerl_fails: Treerl) -> None:
    treerl_fails("up", "--config", "/nowhere.toml", because=["cannot read config /nowhere.toml"])


def test_a_finished_run_is_not_run_again(tmp_path: Path, treerl_fails: Treerl) -> None:
    (tmp_path / "summary.json").touch()
    treerl_fails("demo", "--out", str(tmp_path), because=["holds a finished run", "choose another --out"])


def test_an_unfinished_run_of_another_seed_is_not_resumed(tmp_path: Path, treerl_fails: Treerl) -> None:
    (tmp_path / "config.toml").write_text("[trainer]\nseed = 3\n")
    treerl_fails("demo", "--out", str(tmp_path), because=["unfinished run with seed 3, not 0"])


def test_no_run_to_sample_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, treerl_fails: Treerl) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    treerl_fails("sample", "--prompt", "hello", because=["no run was started on this machine"])


def test_a_sampler_that_is_not_there(treerl_fails: Treerl) -> None:
    treerl_fails("sample", "--prompt", "x", "--tree", "--sampler", "127.0.0.1:1", because=["no sampler answers at"])


@pytest.mark.parametrize("words", [["--gold", "1"], [], ["--file", "x", "--gold", "1"]])
def test_verify_needs_a_pair_or_a_file(words: list[str], treerl_fails: Treerl) -> None:
    treerl_fails("verify", *words, because=["give either --gold and --answer, or --file"])


def test_an_advantage_or_a_file_that_is_not_there(tmp_path: Path, treerl_fails: Treerl) -> None:
    treerl_fails("advantages", "--file", "/nowhere.jsonl", because=["cannot read /nowhere.jsonl: No such file"])
    treerl_fails("advantages", "--file", "x", "--advantage", "best", because=["'best'; there are treerl, "])
    (tmp_path / "trees.jsonl.zst").write_text("plain")
    treerl_fails("advantages", "--file", str(tmp_path / "trees.jsonl.zst"), because=["is not a Zstandard file"])


def test_a_folder_that_is_no_run(tmp_path: Path, treerl_fails: Treerl) -> None:
    treerl_fails("report", str(tmp_path / "nowhere"), because=["no such folder"])


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    check = (
        "import sys; from typer.testing import CliRunner; from services.cli.main import app; "
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output; "
        "heavy = {'torch', 'vllm', 'deepspeed', 'transformers', 'pydantic_settings', 'redis'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_cleans_up_and_says_so_by_its_status(signal_number: int, status: int) -> None:
    script = (
        "import asyncio, sys\n"
        "from services.cli import main\n"
        "async def work():\n"
        "    try:\n"
        "        print('working', flush=True); await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "@main.app.command()\n"
        "def wait() -> None: main.run_to_end(work())\n"
        "sys.argv = ['treerl', 'wait']\n"
        "main.main()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    time.sleep(0.05)
    child.send_signal(signal_number)
    output, complaints = child.communicate(timeout=10)
    assert (output, complaints, child.returncode) == ("cleaned up\n", "", status)
