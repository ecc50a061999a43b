#!/usr/bin/env bash
# Puts into FOLDER what the deployment's lints need beside the development environment: checkov, in an environment of its
# own because its pins differ, and promtool, out of Debian's package where there is one. What cannot be had is left out:
# the tests that need it say so and skip.
#   tests/deploy/get-tools.sh FOLDER [PYTHON]
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=${2:-python3}

if [ ! -e "$folder/checkov" ]; then
    "$python" -m venv "$folder/checkov-environment"
    if "$folder/checkov-environment/bin/python" -m pip install --quiet --disable-pip-version-check checkov==3.3.30; then
        ln -s checkov-environment/bin/checkov "$folder/checkov"
    else
        rm -r "$folder/checkov-environment"
        echo "checkov cannot be had here: the tests of the deployment's security skip" >&2
    fi
fi

if ! command -v promtool >/dev/null && [ ! -e "$folder/promtool" ] && command -v apt-get >/dev/null; then
    scratch=$(mktemp -d "$folder/promtool.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    cd "$scratch"
    # Root downloads as root: a user whom apt changes to may write neither here nor, on some machines, to /tmp.
    apt_get() { TMPDIR=$scratch apt-get -qq -o APT::Sandbox::User=root "$@"; }
    [ "$(id -u)" -ne 0 ] || apt_get update || echo "the lists of packages are those of before" >&2
    if apt_get download prometheus; then
        dpkg-deb --extract prometheus_*.deb .
        mv usr/bin/promtool "$folder/promtool"
    else
        echo "promtool cannot be had here: install it from Prometheus' own archive" >&2
    fi
fi
