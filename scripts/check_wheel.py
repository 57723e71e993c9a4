"""Check that the wheel is complete and that a bare install of it is light.

A service that imports the SDK must not inherit the engine's dependencies. This builds the wheel, compares its files
with the source tree, installs it without extras into an empty environment and looks at what `import stepwire` loads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"stepwire": ROOT / "python_sdk" / "stepwire", "stepwire_engine": ROOT / "engine" / "stepwire_engine"}
HEAVY = frozenset(
    {
        "asyncpg", "click", "grpc_health", "httpcore", "httpx", "jinja2", "opentelemetry", "pydantic", "pytest", "rich",
        "sqlite3", "starlette", "stepwire_engine", "uvicorn", "uvloop", "watchfiles", "yaml",
    }
)  # fmt: skip
"""Top-level modules that `import stepwire` must not load."""


def heavy_modules(python: str = sys.executable) -> list[str]:
    """Names from HEAVY that `import stepwire` loads in a fresh process of this interpreter, sorted."""
    code = "import sys, stepwire; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return sorted(HEAVY.intersection(loaded))


def missing_files(wheel: Path) -> list[str]:
    """Files of the source packages that the wheel does not carry (SQL, py.typed, the built user interface), sorted."""
    with zipfile.ZipFile(wheel) as archive:
        carried = set(archive.namelist())
    source = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(source - carried)


def build(into: Path) -> Path:
    constraints = str(ROOT / "constraints.txt")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--build-constraint", constraints]
    subprocess.run([*command, "--wheel-dir", str(into), str(ROOT)], check=True)
    (wheel,) = into.glob("stepwire-*.whl")
    return wheel


def install_bare(wheel: Path, into: Path) -> Path:
    """Install without extras into a new environment; return its directory of commands."""
    venv.create(into, with_pip=True)
    commands = into / "bin"
    pip = [str(commands / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    return commands


def problems(scratch: Path) -> list[str]:
    wheel = build(scratch)
    found = [f"{wheel.name} lacks {name}" for name in missing_files(wheel)]
    commands = install_bare(wheel, scratch / "bare")
    found += [f"`import stepwire` loads {name}" for name in heavy_modules(str(commands / "python"))]
    command = subprocess.run([str(commands / "stepwire"), "--help"], capture_output=True, text=True)
    if command.returncode != 2 or "pip install 'stepwire[engine]'" not in command.stderr:
        found.append(f"bare `stepwire` must exit 2 and name the extra, got {command.returncode}: {command.stderr}")
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        found = problems(Path(scratch))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print("wheel: complete, and light without extras")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
