"""Whether there is a Docker engine to test with, and leave to use it."""

import os
import shutil
import subprocess

import pytest


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Skips, with the reason, where no engine answers, or `make test-deploy` did not ask for this half hour."""
    if not os.environ.get("TREERL_TEST_DOCKER"):
        pytest.skip("images are built and run by make test-deploy")
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        pytest.skip(asked.stderr.strip().splitlines()[-1])
