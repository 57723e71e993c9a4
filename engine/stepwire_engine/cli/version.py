"""`stepwire version`: what is installed, for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from stepwire_engine.cli.options import Output, output_option
from stepwire_engine.cli.terminal import data


@click.command()
@output_option
def version(output: Output) -> None:
    """Print the versions of this installation."""
    import json

    versions = {name: _installed(name) for name in ("stepwire", "grpcio", "protobuf")}
    versions["python"] = platform.python_version()
    if output is Output.TABLE:
        data(f"stepwire {versions.pop('stepwire')} ({', '.join(f'{name} {v}' for name, v in versions.items())})")
    else:
        data(json.dumps({"schema": "stepwire.version/v1"} | versions))


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "from source"
