"""Running the `stepwire` command as a user does: as a process, seen through its streams and exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stepwire_command() -> list[str]:
    return [sys.executable, "-m", "stepwire_engine"]


def environment(**more: str) -> dict[str, str]:
    """The environment of a user: without what this test session set for itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPWIRE_")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT / "python_sdk")])} | more


def stepwire(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*stepwire_command(), *arguments], capture_output=True, text=True, cwd=cwd, timeout=15,
        stdin=subprocess.DEVNULL, env=environment(**(env or {})),
    )  # fmt: skip
