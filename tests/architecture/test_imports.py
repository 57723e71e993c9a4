"""Who may import whom: the import-linter contracts of pyproject.toml, and what imports and commands load.

What is loaded decides how long a start takes, and is counted here instead of the time: `import stepwire` is to take at
most 0.35 s, `stepwire --help` 0.3 s. To see where time goes: `python -X importtime -c "import stepwire"`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.check_wheel import heavy_modules
from tests.architecture.source import ROOT


def test_import_contracts_are_kept() -> None:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    linter = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_importing_the_sdk_loads_nothing_of_the_engine() -> None:
    # grpc itself imports its health checking where that is installed, as it is for developers.
    assert [name for name in heavy_modules() if name != "grpc_health"] == []


SDK_NEEDS = {"cython_runtime", "google", "grpc", "msgspec", "prometheus_client", "stepwire", "typing_extensions"}
"""Top-level packages that are not Python's own and that `import stepwire` may load."""
BY_GRPC = {"grpc_health", "grpc_tools"}
"""grpc looks for these; developers have them."""
SDK_MODULES_MAX = 420
HELP_MODULES_MAX = 100
"""Above those of a Python that does nothing."""


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh process has after this, and had not before."""
    script = (
        "import contextlib, io, sys; before = set(sys.modules)\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    {code}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(found.stdout.split())


def foreign(modules: set[str]) -> set[str]:
    """Top-level packages among them that are not Python's own."""
    packages = {name.partition(".")[0] for name in modules}
    return {name for name in packages - sys.stdlib_module_names if not name.startswith("_")}


def test_importing_the_sdk_loads_no_more_than_it_needs() -> None:
    modules = loaded_by("import stepwire")
    assert foreign(modules) - BY_GRPC <= SDK_NEEDS
    assert len(modules) <= SDK_MODULES_MAX, (
        f"{len(modules)} modules; a heavy one belongs into the function that needs it"
    )


@pytest.mark.parametrize("words", [["--help"], ["host", "--help"], ["runs", "list", "--help"]])
def test_help_loads_nothing_but_the_command_line(words: list[str]) -> None:
    modules = loaded_by(f"from stepwire_engine.cli import main; main({words})")
    assert foreign(modules) == {"click", "stepwire_engine"}
    assert "asyncio" not in modules and len(modules) <= HELP_MODULES_MAX


def test_a_command_that_talks_to_an_engine_loads_nothing_of_it() -> None:
    modules = loaded_by("from stepwire_engine.cli import main; main(['runs', 'list', '--engine', '127.0.0.1:1'])")
    assert "stepwire.client" in modules
    assert not foreign(modules) & {"httpx", "rich", "starlette", "uvicorn", "watchfiles"} and "sqlite3" not in modules
    assert not [name for name in modules if name.startswith(("stepwire_engine.store", "stepwire_engine.scheduler"))]
