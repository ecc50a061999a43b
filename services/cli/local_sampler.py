"""A sampler on this machine for as long as a command needs one, without a run around it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.cli.plan import plan_sampler
from services.cli.supervisor import Supervisor
from services.common.errors import ConfigurationError

PROMPT_TOKENS = 4096
"""Room for a prompt where the model's context leaves it and nothing else is configured."""


@asynccontextmanager
async def local_sampler(config: Path, folder: Path) -> AsyncIterator[str]:
    """Start a sampler and the streams that it stands on; its address inside the context, nothing left after.

    Args:
        config: configures it.
        folder: gets logs.

    Raises:
        ConfigurationError: the configuration is wrong.
        ServiceFailedError: it cannot start.
    """
    plan = plan_sampler(config, folder)
    async with Supervisor(plan, folder, lambda _: None) as supervisor:
        await supervisor.start()
        yield plan.endpoints.samplers[0]


def sampler_table(model: Path, max_tokens: int, configured: Mapping[str, Any]) -> dict[str, Any]:
    """The `[sampler]` table for a model: what is configured, with a bound on tokens that model and prompts fit.

    Raises:
        ConfigurationError: there is no such model, or responses of `max_tokens` leave no room for a prompt.
    """
    try:
        context = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no model in {model}: expected a Hugging Face folder with config.json") from error
    wanted = PROMPT_TOKENS + max_tokens
    table = {
        "max_model_tokens": min(context or wanted, wanted),
        **configured,
        "model": str(model.resolve()),
    }
    room = table["max_model_tokens"]
    table.setdefault("max_batch_tokens", max(room, 8192))
    if max_tokens >= room:
        raise ConfigurationError(
            f"max_tokens is {max_tokens} but the model holds {room} with the prompt: give a smaller --max-tokens"
        )
    return table
