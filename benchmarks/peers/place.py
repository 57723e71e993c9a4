"""Where peers are installed: a folder that git ignores, with an environment of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from benchmarks.checkout import ROOT

PLACE = ROOT / ".peers"
PYTHON = PLACE / "venv" / "bin" / "python"
NOT_INSTALLED = "not installed: run `python -m benchmarks.peers install`"
_FIND = "import sys\nfrom importlib.metadata import version\nprint(*map(version, sys.argv[1:]))"


def versions(*distributions: str) -> tuple[str, ...]:
    """Of libraries in the private environment; empty: one of them is not there."""
    if not PYTHON.exists():
        return ()
    found = subprocess.run([str(PYTHON), "-c", _FIND, *distributions], capture_output=True, text=True)
    return tuple(found.stdout.split()) if found.returncode == 0 else ()


def environment(**more: str) -> Mapping[str, str]:
    """For a peer's process: almost nothing of ours, no proxies, no reports to anybody."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(PLACE),
        "PYTHONPATH": str(ROOT),
        "DO_NOT_TRACK": "1",
        **more,
    }
