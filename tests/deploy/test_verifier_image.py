"""The verifier's image against hostile programs, as a container that may do nothing: verdicts, and nothing is left."""

import json
import os
import subprocess

import pytest

from tests.deploy.compose_stack import ROOT, VERSION

CONFINED = [
    *("--init", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--user", "1000:1000"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "4g", "--pids-limit", "2048"),
]

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("docker_engine")]


@pytest.fixture(scope="module")
def image() -> str:
    build = ["docker", "compose", "--file", "docker/compose.yaml", "build", "verifier"]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "VERSION": VERSION}, check=True, capture_output=True)
    return f"treerl/verifier:{VERSION}"


@pytest.mark.parametrize("collection", ["recorded", "own"])
def test_hostile_programs_in_a_container_without_privileges(
    request: pytest.FixtureRequest, image: str, collection: str
) -> None:
    folder = request.getfixturevalue("shared_data") if collection == "recorded" else ROOT / "tests" / "fixtures"
    mounts = {folder / "hostile": "/hostile", ROOT / "tests" / "integration" / "hostile_run.py": "/hostile_run.py"}
    command = ["docker", "run", "--rm", *CONFINED, "--entrypoint", "python", "--env", "PYTHONPATH=/app"]
    for path, place in mounts.items():
        command += ["--volume", f"{path}:{place}:ro"]
    ended = subprocess.run(
        [*command, image, "/hostile_run.py", "/hostile/MANIFEST.jsonl"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {"level": "SECCOMP", "wrong": [], "left": []}


def test_the_verifier_s_image_holds_no_torch(image: str) -> None:
    look = (
        "import importlib.util as u; print([name for name in ('torch', 'vllm', 'transformers') if u.find_spec(name)])"
    )
    command = ["docker", "run", "--rm", *CONFINED, "--entrypoint", "python", image, "-c", look]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
