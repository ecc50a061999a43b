import json
import socket
from pathlib import Path
from typing import Any

import pytest

from services.cli.demo import _CONFIG
from services.cli.documents import merged, read_document, to_toml
from services.cli.endpoints import Endpoints
from services.cli.methods import CHAINS_OF_EQUAL_TOKENS, TRAINER_CHANGES, Method
from services.cli.plan import Plan, plan_run, plan_trainer
from services.cli.ports import CANDIDATES
from services.cli.process import Command, Ending
from services.common.errors import ConfigurationError
from services.common.settings import load_settings
from services.trainer.settings import TrainerSettings


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The demo's configuration, filled in."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").touch()
    filled_in = {"sampler": {"model": str(model)}, "trainer": {"model": str(model), "train_data": "train.jsonl"}}
    return merged(read_document(_CONFIG), filled_in)


def plan_of(document: dict[str, Any], run: Path, samplers: int = 1, verifiers: int = 1) -> Plan:
    config = run.parent / "user.toml"
    config.write_text(to_toml(document))
    return plan_run(config, run, samplers, verifiers)


def flag(command: Command, name: str) -> str:
    [value] = [word.partition("=")[2] for word in command.words if word.startswith(f"--{name}=")]
    return value


def test_every_service_gets_a_port_of_its_own_and_the_trainer_the_samplers(
    document: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(document, tmp_path / "run", samplers=2, verifiers=3)
    names = [command.name for command in plan.workers]
    assert names == ["sampler-0", "sampler-1", "verifier-0", "verifier-1", "verifier-2"]
    commands = (*plan.workers, plan.trainer)
    ports = [int(flag(command, kind)) for command in commands for kind in ("port", "metrics-port")]
    assert len(set(ports)) == 12
    assert all(port in CANDIDATES for port in ports)
    assert json.loads(flag(plan.trainer, "samplers")) == list(plan.endpoints.samplers)
    assert plan.endpoints.trainer == f"127.0.0.1:{flag(plan.trainer, 'port')}"
    assert plan.trainer.ending is Ending.FINISHED
    assert {command.ending for command in plan.workers} == {Ending.EARLY}
    assert plan.total_steps == document["trainer"]["steps"]


def test_an_embedded_valkey_is_planned_unless_the_user_has_a_server(document: dict[str, Any], tmp_path: Path) -> None:
    embedded = plan_of(document, tmp_path / "run")
    assert embedded.store is not None
    assert {"--appendonly", "everysec", str(tmp_path / "run" / "valkey")} <= set(embedded.store.words)
    assert flag(embedded.trainer, "redis-url") == embedded.endpoints.redis_url

    url = "redis://:secret@db.example:1/2"
    own = plan_of({"redis_url": url, **document}, tmp_path / "own")
    assert (own.store, own.endpoints.redis_url) == (None, url)


def test_a_servers_password_is_on_no_command_line_and_in_no_list_of_endpoints(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plan = plan_of({"redis_url": "redis://:secret@db.example:1/2", **document}, tmp_path / "run")
    plan.endpoints.write(tmp_path / "run")
    assert not any("secret" in word for command in (*plan.workers, plan.trainer) for word in command.words)
    assert Endpoints.read(tmp_path / "run").redis_url == "redis://db.example:1/2"


def test_the_effective_configuration_is_kept_in_the_run_folder(document: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan_of(document, run)
    kept = read_document(run / "config.toml")
    assert kept["trainer"]["output_dir"] == str(run)
    assert kept["sampler"]["weights_dir"] == str(run / "weights")
    assert kept["trainer"]["search"] == document["trainer"]["search"]


@pytest.mark.parametrize("method", Method)
def test_every_method_fits_the_trainer(method: Method, document: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan_of(merged(document, {"trainer": TRAINER_CHANGES[method]}), run)
    settings = load_settings(TrainerSettings, run / "config.toml", samplers=("127.0.0.1:1",))
    found = (
        *(settings.search.parameters().max_leaves, settings.advantage, settings.loss_mean),
        *(settings.clip_high, settings.kl_coefficient),
    )
    assert (
        found
        == {
            Method.TREERL: (30, "treerl", "token", 1.26, 0.0),
            Method.CHAINRL: (CHAINS_OF_EQUAL_TOKENS, "rloo", "token", 1.26, 0.0),
            Method.GRPO: (CHAINS_OF_EQUAL_TOKENS, "grpo", "sequence", 1.2, 0.04),
            Method.DAPO: (CHAINS_OF_EQUAL_TOKENS, "grpo", "token", 1.28, 0.0),
        }[method]
    )


def test_a_configured_port_that_is_busy_is_named(document: dict[str, Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        busy = merged(document, {"sampler": {"port": port}})
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1, configured for sampler-0, is in use"):
            plan_of(busy, tmp_path / "run")


def test_configured_ports_count_up_over_the_instances(document: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(merged(document, {"verifier": {"port": 19_100}}), tmp_path / "run", verifiers=2)
    assert plan.endpoints.verifiers == ("127.0.0.1:19100", "127.0.0.1:19101")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": {"stepz": 3}}, r"unknown key 'stepz' in \[trainer\]"),
        ({"verifier": {"math_workerz": 3}}, r"unknown key 'math_workerz' in \[verifier\]"),
        ({"smapler": {}}, "unknown key 'smapler'"),
        ({"trainer": {"advantage": "magic"}}, "trainer settings: advantage: Input should be 'treerl'"),
        ({"sampler": {"model": "/nowhere"}}, "model folder /nowhere does not exist"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(
    change: dict[str, Any], message: str, document: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan_of(merged(document, change), tmp_path / "run")


def test_a_trainer_alone_joins_the_samplers_of_its_configuration(document: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    joined = {"redis_url": "redis://127.0.0.1:1/0", "trainer": {"samplers": ["10.0.0.1:5001"]}}
    plan_of(merged(document, joined), tmp_path / "run")
    config.write_text((tmp_path / "run" / "config.toml").read_text())
    plan, folder = plan_trainer(config)
    assert folder == tmp_path / "run"
    assert plan.workers == ()
    assert plan.store is None
    assert plan.endpoints.samplers == ("10.0.0.1:5001",)
