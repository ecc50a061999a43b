"""Unix sessions: every process that a service started, whoever its parent is by now.

Each service leads a session of its own. A process stays in its session when its parent dies, so the children that a
killed service orphaned (an inference engine holding the GPU, a sandbox) can still be found and ended.
"""

import asyncio
import os

import psutil

_POLL_S = 0.02


def members(session: int) -> list[psutil.Process]:
    """Processes of a session that still run; zombies only wait for their parent and hold nothing."""
    return [process for process in psutil.process_iter() if _belongs(process, session)]


async def kill_session(session: int, patience_s: float = 10.0) -> None:
    """Kill every process of a session, and those that they start meanwhile; returns once none runs.

    Raises:
        TimeoutError: some process does not die (it is stuck inside the kernel).
    """
    async with asyncio.timeout(patience_s):
        while running := members(session):
            for process in running:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            await asyncio.sleep(_POLL_S)


def _belongs(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
