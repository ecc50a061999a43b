#!/usr/bin/env bash
# Resolve every lock file anew: cpu.txt and gpu.txt stand alone, dev.txt adds to either, verifier.txt is part of cpu.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

resolve() { uv pip compile --quiet --no-header --no-annotate --python-version 3.11 "$@"; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# uv reads no pip configuration: hand on where pip finds PyTorch's CPU wheels.
cpu_wheels=()
[ -z "${PIP_FIND_LINKS:-}" ] || cpu_wheels+=(--find-links "$PIP_FIND_LINKS")
[ -z "${TORCH_CPU_INDEX:-}" ] || cpu_wheels+=(--extra-index-url "$TORCH_CPU_INDEX" --index-strategy unsafe-best-match)

resolve pyproject.toml --extra cpu --override requirements/overrides.txt "${cpu_wheels[@]}" >"$scratch/cpu.txt"
resolve pyproject.toml --extra gpu --override requirements/overrides-gpu.txt >"$scratch/gpu.txt"
resolve pyproject.toml --extra cpu --extra dev --override requirements/overrides.txt --constraint "$scratch/cpu.txt" \
    "${cpu_wheels[@]}" >"$scratch/all.txt"
comm -13 <(sort "$scratch/cpu.txt") <(sort "$scratch/all.txt") >requirements/dev.txt
resolve requirements/verifier.in --constraint "$scratch/cpu.txt" >"$scratch/verifier.txt"
cp "$scratch"/{cpu,gpu,verifier}.txt requirements/
