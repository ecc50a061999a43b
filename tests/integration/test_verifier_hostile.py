"""Collections of hostile programs against the whole grader, as every kind of user: verdicts, and nothing is left."""

import asyncio
import functools
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY_IN_PARTICULAR = 61234
PACKAGES = sysconfig.get_path("purelib")
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}:{PACKAGES}",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def run(interpreter: str, *arguments: str, user: int | None) -> "subprocess.CompletedProcess[str]":
    who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(
        [interpreter, *arguments], env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False, **who
    )


@functools.cache
def interpreter_for(user: int | None) -> str | None:
    """An interpreter that a user may run and that finds our packages; not every installation is open to others."""
    if user is None:
        return sys.executable
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            if run(candidate, "-c", "import services.verifier.grading", user=user).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


@pytest.mark.parametrize("isolation", ["seccomp", "namespaces"])
@pytest.mark.parametrize("unprivileged", [False, True], ids=["same user", "unprivileged"])
@pytest.mark.parametrize("collection", ["recorded", "own"])
async def test_hostile_programs(
    request: pytest.FixtureRequest, collection: str, unprivileged: bool, isolation: str
) -> None:
    folder = request.getfixturevalue("shared_data") if collection == "recorded" else ROOT / "tests" / "fixtures"
    if unprivileged and os.getuid() != 0:
        pytest.skip("these tests run as an unprivileged user already")
    user = NOBODY_IN_PARTICULAR if unprivileged else None
    interpreter = interpreter_for(user)
    if interpreter is None:
        pytest.skip("no interpreter here can be run by another user; install Python where all may read it")
    script, manifest = ROOT / "tests" / "integration" / "hostile_run.py", folder / "hostile" / "MANIFEST.jsonl"
    ended = await asyncio.to_thread(run, interpreter, str(script), str(manifest), isolation, user=user)
    if "isolated at level" in ended.stderr:
        pytest.skip(ended.stderr.strip().splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    if isolation.upper() != found["level"]:
        pytest.skip(f"this machine allows {found['level'].lower()}, which is another case")
    assert found["wrong"] == []
    assert found["left"] == []
