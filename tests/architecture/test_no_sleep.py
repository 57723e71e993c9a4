"""No test waits for a while and hopes: races are ordered by gates and events, time by a virtual clock.

A sleep that is part of what is tested (a step body that has to be slow) says so on its line: `# gate: reason`.
`sleep(0)`, which only yields, and `ctx.step.sleep`, which is durable, are no such waits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import Module, modules

CLOCKS = {"anyio", "asyncio", "time", "trio"}


def is_sleep(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(id="sleep"):
            named = True
        case ast.Attribute(value=ast.Name(id=owner), attr="sleep"):
            named = owner in CLOCKS
        case _:
            named = False
    return named and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)


def hopeful_sleeps(module: Module) -> Iterator[str]:
    lines = module.lines
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and is_sleep(node):
            if "# gate: " not in lines[(node.end_lineno or node.lineno) - 1]:
                yield f"{module.name}:{node.lineno}"


def test_tests_do_not_sleep() -> None:
    assert [line for module in modules("tests") for line in hopeful_sleeps(module)] == []


@pytest.mark.parametrize("code", ["time.sleep(1)", "await anyio.sleep(0.1)", "sleep(delay)"])
def test_the_rule_sees_a_sleep(code: str) -> None:
    assert list(hopeful_sleeps(Module("t.py", code))) == ["t.py:1"]


@pytest.mark.parametrize(
    "code", ["time.sleep(1)  # gate: a slow step", "await asyncio.sleep(0)", "ctx.step.sleep('a')"]
)
def test_the_rule_leaves_the_rest_alone(code: str) -> None:
    assert list(hopeful_sleeps(Module("t.py", code))) == []
