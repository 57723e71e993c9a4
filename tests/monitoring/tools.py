"""Programs that may not be on this machine; a test that needs one says so by skipping. `.ci/run` installs them."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def needed(program: str) -> str:
    """Where a program is; skips the test if it is nowhere."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed on this machine (Debian: prometheus)")
    return found


def run(program: str, *arguments: str, given: str | None = None) -> str:
    """Run a program that must succeed; what it said."""
    done = subprocess.run([needed(program), *arguments], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
