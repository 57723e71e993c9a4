"""`python -m benchmarks.peers install`: puts the peers into a folder that git ignores, and says what is there."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.choice import chosen
from benchmarks.peers.place import PLACE, PYTHON

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, or only tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Peers of the benchmarks.")
    parser.add_argument(
        "command", choices=["install", "list"], help="install them privately; or list what can be measured"
    )
    options = parser.parse_args(arguments)
    if options.command == "install" and not _install():
        return 1
    able, skipped = chosen("all")
    for peer in able:
        print(f"{peer.name}: {peer.subject().version}")
    for one in skipped:
        print(f"{one.subject}: {one.reason}")
    return 0


def _install() -> bool:
    """Libraries from PyPI, the server of Restate from npm. What fails is told, and the rest goes on."""
    PLACE.mkdir(exist_ok=True)
    done = True
    if not PYTHON.exists():
        done &= _run([sys.executable, "-m", "venv", str(PYTHON.parents[1])])
    done &= _run([str(PYTHON), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)])
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: without it there is no server of Restate", file=sys.stderr)
        return False
    return (
        _run([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PLACE), RESTATE_SERVER])
        and done
    )


def _run(command: Sequence[str]) -> bool:
    print("$", *command, flush=True)
    return subprocess.run(command).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
