#!/bin/sh
# Make the development environment: scripts/setup.sh DIRECTORY. Called by make; needs Python >= 3.11 with its venv module.
set -eu
venv=$1

say() { printf '%s\n' "$@" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "error: Stepwire needs Python 3.11 or newer; python3 is $(python3 -V 2>&1 || true)." \
        "fix:   install it (Debian 12: sudo apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11"
    return 1
}

new_venv() {
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "error: $python has no venv module, which Debian ships as a package of its own." \
            "fix:   sudo apt install python3-venv"
        return 1
    fi
    "$python" -m venv --clear "$venv"
}

say "Setting up $venv (about a minute the first time) ..."
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || new_venv

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
# pip itself comes first: the one of Debian 12 knows neither dependency groups nor build constraints.
pip install --quiet --upgrade --constraint constraints.txt pip
pip install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable '.[engine]' --group dev
