#!/bin/sh
# Write constraints.txt from a fresh resolve of every extra and the dev group: scripts/lock.sh PYTHON
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$1" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
pip install --quiet --upgrade pip
# grpcio is held at the oldest version we support, so that a call it does not have fails here and not at a user.
echo 'grpcio==1.76.0' >"$scratch/floor.txt"
pip install --quiet --constraint "$scratch/floor.txt" '.[engine,otel,postgres,pydantic,uvloop]' --group dev
{
    echo '# Written by `make lock`. CI and every developer get these versions; users get what pyproject.toml allows.'
    echo '# grpcio is held at the oldest supported version on purpose (docs/adr/0006-generated-stubs.md).'
    pip freeze --all --exclude stepwire --exclude setuptools --exclude wheel
} >"$scratch/constraints.txt"
mv "$scratch/constraints.txt" constraints.txt
