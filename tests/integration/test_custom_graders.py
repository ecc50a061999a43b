"""Graders of the user's own: the documented example as it stands, what a grader may do, and what it may not."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.problem import Domain, Problem
from services.common.verdict import Limits, Outcome
from services.verifier.grading import Grader
from services.verifier.settings import VerifierSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "custom_graders.md").read_text(encoding="utf-8")

PACKAGE = """
    import os, socket, sys
    import numpy

    LOADED = open(__file__).readline()
    calls = []

    def deeds(response, gold):
        calls.append(response)
        if response == "count":
            return len(calls) == 1, str(len(calls))
        if response == "numpy":
            return bool(numpy.asarray(gold).sum() == 6)
        if response == "loop":
            while True: pass
        if response == "eat":
            return bytes(1 << 40) == b""
        if response == "raise":
            raise KeyError("missing")
        if response == "kill":
            os.kill(os.getppid(), 9)
        if response == "late":
            import decimal, safetensors
        if response == "odd":
            return "yes"
        try:
            {"fork": os.fork, "socket": socket.socket, "exec": lambda: os.execl("/bin/true", "true"),
             "write": lambda: open("/tmp/treerl-grader", "w"), "read": lambda: open("/etc/passwd")}[response]()
        except OSError:
            return False, "forbidden"
        return True

    not_a_function = 3
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the Python path with a module of graders, installed as a distribution with an entry point."""
    folder = tmp_path_factory.mktemp("graders")
    (folder / "graders_of_a_test.py").write_text(textwrap.dedent(PACKAGE))
    (folder / "leaves_when_imported.py").write_text("raise SystemExit(3)")
    information = folder / "graders_of_a_test-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: graders-of-a-test\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[treerl.graders]\ndeeds = graders_of_a_test:deeds\n")
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader(package: Path) -> AsyncIterator[Grader]:
    grader = Grader(VerifierSettings(graders=("deeds",), math_workers=1, code_workers=1))
    try:
        await grader.start()
        yield grader
    finally:
        await grader.close()


def asked(grader: str = "deeds") -> Problem:
    return Problem("p", Domain.CUSTOM, "?", grader=grader, gold=[1, 2, 3])


async def started(settings: VerifierSettings, cleanup: AsyncExitStack) -> None:
    grader = Grader(settings)
    cleanup.push_async_callback(grader.close)
    await grader.start()


def fenced(language: str) -> str:
    """The first block of the page that is fenced as a language."""
    return PAGE.split(f"\n```{language}\n")[1].split("\n```\n")[0] + "\n"


async def test_the_documented_example_is_the_one_that_runs_and_prints_what_is_documented() -> None:
    assert fenced("python") == (ROOT / "examples" / "exact_json.py").read_text(encoding="utf-8")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "TREERL_VERIFIER_MATH_WORKERS": "1",
        "TREERL_VERIFIER_CODE_WORKERS": "1",
    }
    command = ["sh", "-c", fenced("sh")]
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    printed = PAGE.split(fenced("sh"))[1].split("```\n")[2]  # the next block
    assert (run.stdout, run.returncode) == (printed, 0), run.stderr


@pytest.mark.parametrize(
    ("response", "outcome", "reason"),
    [
        ("numpy", Outcome.CORRECT, "accepted"),
        ("fork", Outcome.WRONG, "forbidden"),
        ("socket", Outcome.WRONG, "forbidden"),
        ("exec", Outcome.WRONG, "forbidden"),
        ("write", Outcome.WRONG, "forbidden"),
        ("read", Outcome.WRONG, "forbidden"),
        ("loop", Outcome.TIMEOUT, "the grader ran longer than 1 s"),
        ("eat", Outcome.INFRA_ERROR, "the grader failed: ran out of memory"),
        ("raise", Outcome.INFRA_ERROR, "the grader failed: KeyError: \"'missing'\""),
        ("late", Outcome.INFRA_ERROR, "the grader failed: ModuleNotFoundError"),
        ("odd", Outcome.INFRA_ERROR, "the grader failed: it returned 'yes', expected True, False or None"),
        ("kill", Outcome.INFRA_ERROR, "the grader failed: PermissionError"),
    ],
)
async def test_what_a_grader_does_becomes_a_verdict(
    grader: Grader, response: str, outcome: Outcome, reason: str
) -> None:
    verdict = await grader.grade(asked(), response, Limits(1.0, 0, 0))
    assert verdict.outcome is outcome, verdict.reason
    assert verdict.reason.startswith(reason)


async def test_nothing_is_left_of_one_response_when_the_next_comes(grader: Grader) -> None:
    for gold in range(3):  # three questions, or the cache would answer
        assert (await grader.grade(replace(asked(), gold=gold), "count")).reason == "1"


@pytest.mark.parametrize("name", ["os:system", "graders_of_a_test:deeds", "", "other"])
async def test_a_request_names_no_grader_that_the_settings_do_not_name(grader: Grader, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="the verifier's setting `graders` allows deeds"):
        await grader.grade(asked(name), "numpy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown", "'unknown' is not installed: .* are deeds"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("graders_of_a_test:f", "cannot be imported: AttributeError"),
        ("graders_of_a_test:not_a_function", "is a int, expected a function"),
        ("leaves_when_imported:f", "cannot be imported: SystemExit: 3"),
    ],
)
async def test_a_grader_that_is_not_there_keeps_the_verifier_from_starting(
    package: Path, name: str, message: str
) -> None:
    settings = VerifierSettings(graders=(name,), math_workers=1, code_workers=1)
    async with AsyncExitStack() as cleanup:
        with pytest.raises(ConfigurationError, match=message):
            await started(settings, cleanup)
