"""Names and docstrings: a file is named after its concept, and says why it exists."""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath

import pytest

from tests.architecture.source import ALL_CODE, PACKAGES, Module, modules

DRAWER = re.compile(r"(^|_)(utils?|misc|common|stuff|lib|help[a-z]+)$")
"""Names of files in which anything could be put, and therefore is."""


def is_drawer(name: str) -> bool:
    path = PurePosixPath(name)
    return any(DRAWER.search(part) for part in (*path.parent.parts, path.stem))


def is_public(module: Module) -> bool:
    path = PurePosixPath(module.name)
    return not any(part.startswith("_") for part in (*path.parent.parts, path.stem) if part != "__init__")


def is_described(module: Module) -> bool:
    """Has a docstring, or is empty (the marker of a package)."""
    return not module.text.strip() or ast.get_docstring(module.tree) is not None


def test_no_file_is_a_drawer() -> None:
    assert [module.name for module in modules(*ALL_CODE) if is_drawer(module.name)] == []


@pytest.mark.parametrize("name", ["a/utils.py", "a/common/b.py", "a/test_util.py", "a/string_lib.py"])
def test_the_rule_sees_a_drawer(name: str) -> None:
    assert is_drawer(name)


@pytest.mark.parametrize("name", ["cli/help.py", "store/commit.py", "core/library.py"])
def test_the_rule_leaves_concepts_alone(name: str) -> None:
    assert not is_drawer(name)


def test_modules_of_the_packages_say_why_they_exist() -> None:
    assert [module.name for module in modules(*PACKAGES) if not is_described(module)] == []


def test_public_modules_of_the_sdk_document_what_they_export() -> None:
    undocumented = [
        f"{module.name}:{node.lineno} {node.name}"
        for module in modules("python_sdk/stepwire")
        if is_public(module) and "/protocol/" not in module.name
        for node in module.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert undocumented == []
