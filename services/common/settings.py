"""How every service is configured: a TOML file, then the environment, then flags; the later wins.

One file configures a whole run: top-level keys are shared by all services, and each service reads the table of its own
name. The environment uses `TREERL_<SERVICE>_<KEY>`, or `TREERL_<KEY>` for shared keys; `__` goes one level down.
Keys that nobody knows are errors everywhere.
"""

import os
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from services.common.errors import ConfigurationError
from services.common.problem import describe

SERVICE_TABLES = ("sampler", "verifier", "trainer")
"""Tables that a configuration file may hold."""


class SharedSettings(BaseSettings):
    """What all services of a run must agree on, and where each one listens."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    run: str = Field(
        default="default", pattern=r"^[A-Za-z0-9._-]+$", description="name of the run; prefixes its streams"
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", description="Redis or Valkey server that holds the streams"
    )
    host: str = Field(default="127.0.0.1", description="address that the gRPC and metrics servers listen on")
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="least severe log line written"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but arguments: only `load_settings` looks at the environment, under its prefix."""
        return (init_settings,)


SHARED_KEYS = tuple(SharedSettings.model_fields)


class ServiceSettings(SharedSettings):
    """Base of each service's settings; a subclass names its table."""

    table: ClassVar[str]

    instance: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="name of this process among its kind, the same after a restart: it then finds its unfinished work",
    )
    port: int = Field(default=0, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Prometheus port; 0 takes a free one")
    stalled_reader_s: float = Field(
        default=60.0,
        ge=0.1,
        le=3600.0,
        description="seconds after which a client that reads nothing of its stream is cut off",
    )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load_settings(
    settings_type: type[SettingsT], config: Path | None = None, flags: list[str] | None = None, **overrides: Any
) -> SettingsT:
    """Read a service's settings.

    Args:
        settings_type: the service's class.
        config: TOML file; None for none.
        flags: command-line words such as `--port 5000`; None for none.
        overrides: values that win over everything.

    Raises:
        ConfigurationError: naming the file, each key and what it should be.
    """
    tables = {} if config is None else _read_toml(config, settings_type)
    _reject_unknown_environment(settings_type)

    class Sourced(settings_type):  # type: ignore[valid-type, misc]  # binds this call's sources to the class
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **__: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: list[PydanticBaseSettingsSource] = [InitSettingsSource(settings_cls, init_kwargs=overrides)]
            if flags is not None:
                command_line: CliSettingsSource[Any] = CliSettingsSource(
                    settings_cls,
                    cli_parse_args=flags,
                    cli_prog_name=f"python -m services.{settings_type.table}",
                    cli_kebab_case=True,
                    cli_hide_none_type=True,
                )
                sources.append(command_line)
            sources.append(EnvSettingsSource(settings_cls, env_prefix=f"TREERL_{settings_type.table.upper()}_"))
            sources.append(_SharedEnvironment(settings_cls, env_prefix="TREERL_"))
            sources.append(InitSettingsSource(settings_cls, init_kwargs=tables))
            return tuple(sources)

    Sourced.__doc__ = settings_type.__doc__
    try:
        values = dict(Sourced())
    except ValidationError as error:
        raise ConfigurationError(f"{settings_type.table} settings: {describe(error)}") from error
    return cast(SettingsT, settings_type.model_construct(**values))


class _SharedEnvironment(EnvSettingsSource):
    """Reads only the shared keys, so that TREERL_PORT is not every service's port."""

    def __call__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__call__().items() if key in SHARED_KEYS}


def _read_toml(config: Path, settings_type: type[ServiceSettings]) -> dict[str, Any]:
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read config {config}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"config {config} is not TOML: {error}") from error
    shared = {key: value for key, value in document.items() if key not in SERVICE_TABLES}
    for key, value in shared.items():
        if isinstance(value, Mapping) or key not in SHARED_KEYS:
            known = ", ".join([*SHARED_KEYS, *(f"[{table}]" for table in SERVICE_TABLES)])
            raise ConfigurationError(f"config {config}: unknown key {key!r}; known are {known}")
    table = document.get(settings_type.table, {})
    unknown = [key for key in table if key not in settings_type.model_fields]
    if unknown:
        known = ", ".join(settings_type.model_fields)
        raise ConfigurationError(
            f"config {config}: unknown key {unknown[0]!r} in [{settings_type.table}]; known are {known}"
        )
    return {**shared, **table}


def _reject_unknown_environment(settings_type: type[ServiceSettings]) -> None:
    prefix = f"TREERL_{settings_type.table.upper()}_"
    for name in os.environ:
        if (
            name.startswith(prefix)
            and name.removeprefix(prefix).lower().split("__")[0] not in settings_type.model_fields
        ):
            raise ConfigurationError(f"environment variable {name} names no setting of the {settings_type.table}")


def settings_from_command_line(settings_type: type[SettingsT]) -> SettingsT:
    """Settings of a service's own process, from its command line: `--config FILE` and one flag a setting.

    Prints one line and exits with 2 where they are wrong.
    """
    flags = sys.argv[1:]
    config: Path | None = None
    if "--config" in flags:
        at = flags.index("--config")
        config = Path(flags[at + 1]) if at + 1 < len(flags) else None
        flags = flags[:at] + flags[at + 2 :]
    try:
        return load_settings(settings_type, config, flags)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
