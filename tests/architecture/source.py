"""The project's own source files, parsed: what the architecture tests look at. Generated code is left out."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine/stepwire_engine", "python_sdk/stepwire")
ALL_CODE = (*PACKAGES, "benchmarks", "examples", "scripts", "tests")
GENERATED = ROOT / "python_sdk/stepwire/v1"


@dataclass(frozen=True, slots=True)
class Module:
    """One file; `name` is its path from the root of the repository."""

    name: str
    text: str

    @property
    def lines(self) -> list[str]:
        """As the parser numbers them; `splitlines` would also cut at form feeds."""
        return self.text.removesuffix("\n").split("\n")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)


@functools.cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Every module under these folders, in order of name."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(
        Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in paths
        if GENERATED not in path.parents
    )


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of the module, nested ones and methods too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
