"""Environment of the test's child processes: the packages of this checkout."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "engine"), str(ROOT / "python_sdk")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
