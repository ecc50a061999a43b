"""How a service's process begins and ends."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from services.common.errors import TreerlError
from services.common.settings import SettingsT, settings_from_command_line


def run_service(settings_type: type[SettingsT], serve: Callable[[SettingsT], Awaitable[None]]) -> None:
    """Read settings from the command line and serve until done.

    Exit codes: 0 after SIGTERM or a finished job, 1 with one line `error: …` when the service cannot go on, 2 with one
    such line when its settings are wrong.
    """
    settings = settings_from_command_line(settings_type)

    async def main() -> None:
        await serve(settings)

    try:
        asyncio.run(main())
    except TreerlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
