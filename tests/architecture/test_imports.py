"""Who may import whom: the import-linter contracts of pyproject.toml, and what `import stepwire` loads."""

from __future__ import annotations

import subprocess
import sys

from scripts.check_wheel import heavy_modules
from tests.architecture.source import ROOT


def test_import_contracts_are_kept() -> None:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    linter = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_importing_the_sdk_loads_nothing_of_the_engine() -> None:
    # grpc itself imports its health checking where that is installed, as it is for developers.
    assert [name for name in heavy_modules() if name != "grpc_health"] == []
