"""Small enough to read: the size norms of CONTRIBUTING.md."""

from __future__ import annotations

import ast

from tests.architecture.source import ALL_CODE, Module, functions, modules

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
MODULE_LINES_REASON = 400
PRODUCT = tuple(folder for folder in ALL_CODE if folder != "tests")

REASONS: dict[str, str] = {
    "engine/stepwire_engine/config.py": "the table of every setting, and the one loader that checks values against it",
    "engine/stepwire_engine/core/engine.py": "the face of the core: every input, and everything the shell takes",
    "engine/stepwire_engine/core/fold.py": "the only code that changes what a run durably is, an entry per function",
    "engine/stepwire_engine/core/model.py": "one run as a value: what folds, and what hosts hold of it",
    "engine/stepwire_engine/core/history.py": "the record people read, its value types and its one fold, side by side",
    "engine/stepwire_engine/scheduler/driver.py": "the one loop around the core, from its start to whatever ends it",
    "engine/stepwire_engine/scheduler/runs.py": "every call of clients beside the refusals that they share",
    "python_sdk/stepwire/_replay/journal.py": "one cursor: recorded, made and new are told apart in one place",
    "python_sdk/stepwire/_runtime/attempts.py": "attempts from their start to their outcome, however they are stopped",
    "python_sdk/stepwire/_runtime/body.py": "one live body: its decisions, lines of control and end share state",
    "python_sdk/stepwire/_runtime/executor.py": "one tick of a host: what a frame says, what leaves",
    "python_sdk/stepwire/_runtime/group.py": "one open group: its branches share state with its verdict",
    "python_sdk/stepwire/_transport/session.py": "one pure machine: a session's books are changed in one place",
    "examples/census/analysis.py": "one program, read in the order of the census; its counting rules stand at its head",
    "python_sdk/stepwire/client.py": "both clients side by side: neither may lack what the other has",
    "python_sdk/stepwire/host.py": "what a service registers, in one class: signatures and their docstrings",
    "python_sdk/stepwire/errors.py": "the whole error tree with its hints: one reference, mostly docstrings",
}
"""Modules of more than 400 lines (tests aside), each with the reason why it is not split."""


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring: explaining more is never punished."""
    first = function.body[0]
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def long_functions(module: Module) -> list[str]:
    return [
        f"{module.name}:{function.lineno} {function.name}: {size} lines"
        for function in functions(module)
        if (size := code_lines(function)) > FUNCTION_LINES_MAX
    ]


def test_functions_are_at_most_70_lines() -> None:
    assert [line for module in modules(*ALL_CODE) for line in long_functions(module)] == []


def test_modules_are_at_most_600_lines() -> None:
    sizes = {module.name: len(module.lines) for module in modules(*ALL_CODE)}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX} == {}


def test_modules_over_400_lines_have_a_reason() -> None:
    large = {module.name for module in modules(*PRODUCT) if len(module.lines) > MODULE_LINES_REASON}
    assert large - REASONS.keys() == set(), "split them, or write the reason into REASONS"
    assert REASONS.keys() - large == set(), "these are small again: remove them from REASONS"


def test_the_measure_sees_a_long_function() -> None:
    body = "\n".join(["    x = 1"] * FUNCTION_LINES_MAX)
    assert long_functions(Module("long.py", f"def long():\n{body}\n")) == ["long.py:1 long: 71 lines"]
    assert long_functions(Module("fits.py", f'def fits():\n    """Why.\n\n    More.\n    """\n{body[:-10]}\n')) == []
