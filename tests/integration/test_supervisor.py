"""The supervisor over real processes: small scripts stand in for the services."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.cli.endpoints import Endpoints, current_run
from services.cli.plan import Plan
from services.cli.process import Command, Ending, RestartPolicy, ServiceFailedError, State, SupervisedProcess
from services.cli.sessions import members
from services.cli.supervisor import Supervisor

POLICY = RestartPolicy(first_delay_s=0.05, longest_delay_s=0.1, steady_s=0.5, attempts=3, grace_s=2.0)

SERVICE = """
    import signal, subprocess, sys, time
    from pathlib import Path
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path({ready!r}).write_text(str(child.pid))
    def end(*_):
        child.kill()
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def command(folder: Path, name: str, script: str, ending: Ending = Ending.EARLY) -> Command:
    """A service whose script writes a file once it is ready."""
    ready = folder / f"{name}.ready"

    async def is_ready() -> bool:
        return ready.exists()

    source = textwrap.dedent(script).replace("{ready!r}", repr(str(ready)))
    return Command(name, (sys.executable, "-c", source), is_ready, ending)


def supervised(folder: Path, service: Command, policy: RestartPolicy = POLICY) -> SupervisedProcess:
    return SupervisedProcess(service, folder / f"{service.name}.log", policy, lambda _: None)


async def until(condition: Callable[[], bool], patience_s: float = 10.0) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # other processes make it true
            await asyncio.sleep(0.02)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_a_killed_service_is_restarted_and_the_children_it_orphaned_are_gone(tmp_path: Path) -> None:
    process = supervised(tmp_path, command(tmp_path, "sampler-0", SERVICE))
    running = asyncio.create_task(process.run())
    await process.ready.wait()
    first, grandchild = process.pid, int((tmp_path / "sampler-0.ready").read_text())
    assert first is not None
    assert runs(grandchild)

    (tmp_path / "sampler-0.ready").unlink()
    os.kill(first, signal.SIGKILL)
    await until(lambda: process.restarts == 1 and process.ready.is_set())

    assert not runs(grandchild)
    assert process.pid != first
    second = process.pid
    await process.stop()
    await running
    assert process.state is State.STOPPED
    assert second is not None
    assert members(second) == []


async def test_a_service_that_ignores_sigterm_is_killed_after_the_time_of_grace(tmp_path: Path) -> None:
    stubborn = """
        import signal, time
        from pathlib import Path
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path({ready!r}).touch()
        time.sleep(600)
    """
    policy = RestartPolicy(grace_s=0.3)
    process = supervised(tmp_path, command(tmp_path, "verifier-0", stubborn), policy)
    running = asyncio.create_task(process.run())
    await process.ready.wait()
    pid = process.pid
    assert pid is not None
    await process.stop()
    await running
    assert not runs(pid)


async def test_a_service_that_keeps_crashing_is_given_up_after_as_many_attempts_as_allowed(tmp_path: Path) -> None:
    process = supervised(tmp_path, command(tmp_path, "sampler-0", "raise RuntimeError('a bug')"))
    with pytest.raises(ServiceFailedError, match=r"sampler-0: ended with status 1 3 times in a row \(log: .*\)"):
        await process.run()
    assert process.restarts == 2
    assert process.state is State.FAILED


async def test_a_service_that_refuses_to_start_is_given_up_at_once_with_its_own_words(tmp_path: Path) -> None:
    refusal = "import sys; print('starting', file=sys.stderr); sys.exit('error: no model folder at /nowhere')"
    process = supervised(tmp_path, command(tmp_path, "sampler-0", refusal))
    with pytest.raises(ServiceFailedError, match=r"^sampler-0: no model folder at /nowhere \(log: "):
        await process.run()
    assert process.restarts == 0


async def test_failures_are_counted_afresh_once_a_service_was_steady(tmp_path: Path) -> None:
    steady_then_dead = """
        import os, signal, time
        from pathlib import Path
        Path({ready!r}).touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    policy = RestartPolicy(first_delay_s=0.01, steady_s=0.05, attempts=2)
    process = supervised(tmp_path, command(tmp_path, "verifier-0", steady_then_dead), policy)
    running = asyncio.create_task(process.run())
    await until(lambda: process.restarts >= 3)
    await process.stop()
    await running


def plan_of(folder: Path, trainer_script: str) -> Plan:
    return Plan(
        store=command(folder, "valkey", SERVICE),
        workers=(command(folder, "sampler-0", SERVICE), command(folder, "verifier-0", SERVICE)),
        trainer=command(folder, "trainer", trainer_script, Ending.FINISHED),
        endpoints=Endpoints("redis://127.0.0.1:1/0", ("127.0.0.1:2",), ("127.0.0.1:3",), "127.0.0.1:4"),
        total_steps=1,
    )


async def test_a_run_starts_in_order_finishes_and_leaves_no_process(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "import time; time.sleep(0.3)")
    started: list[str] = []

    def note(process: SupervisedProcess) -> None:
        if process.state is State.READY:
            started.append(process.command.name)

    async with Supervisor(plan, tmp_path, note, POLICY) as supervisor:
        await supervisor.start()
        sessions = [process.pid for process in supervisor.processes if process.pid is not None]
        await supervisor.finished()
        assert current_run() == tmp_path
        assert Endpoints.read(tmp_path) == plan.endpoints
    assert started[0] == "valkey"
    assert {"sampler-0", "verifier-0"} <= set(started)
    assert len(sessions) >= 3
    assert [member for session in sessions for member in members(session)] == []
    assert (tmp_path / "logs" / "trainer.log").exists()


async def test_a_trainer_that_cannot_go_on_ends_the_run_with_its_own_words(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "import sys; sys.exit('error: mismatch KL is 0.2: stale weights')")
    async with Supervisor(plan, tmp_path, lambda _: None, POLICY) as supervisor:
        await supervisor.start()
        with pytest.raises(ServiceFailedError, match=r"trainer: mismatch KL is 0\.2: stale weights"):
            await supervisor.finished()
    assert all(process.pid is None for process in supervisor.processes)


def test_services_end_when_the_supervisor_itself_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    service = f"import os, time, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(600)"
    supervisor = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from services.cli.process import Command, RestartPolicy, SupervisedProcess
        async def never(): return False
        service = Command("sampler-0", (sys.executable, "-c", {service!r}), never)
        process = SupervisedProcess(service, Path({str(tmp_path / "log")!r}), RestartPolicy(), lambda _: None)
        asyncio.run(process.run())
    """)
    parent = subprocess.Popen([sys.executable, "-c", supervisor])
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(pid)
