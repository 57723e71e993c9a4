"""Few tests may leave the mode that keeps no live body (tests/evicting.py): those that are about bodies that stay."""

from __future__ import annotations

import ast

from tests.architecture.source import Module, modules

MARK = "live_bodies"
LEFT_OUT: dict[str, tuple[int, str]] = {
    "tests/budget/test_budget.py": (1, "counts what a step costs where bodies stay"),
    "tests/budget/test_mutants.py": (1, "the same"),
    "tests/e2e/test_tracing.py": (1, "a life of a body ends with its host, and has one span"),
    "tests/sdk/test_budget.py": (1, "the request budget of a host that keeps its bodies"),
    "tests/sdk/test_compensation.py": (1, "a kept body is entered once"),
    "tests/sdk/test_crashes.py": (1, "an evicted body is stopped where it stands, and only then"),
    "tests/sdk/test_declarative_flows.py": (1, "the request budget"),
    "tests/sdk/test_fast_slow.py": (1, "the request budget"),
    "tests/sdk/test_group_losers.py": (3, "counts how often the code of a loser ends, which every body does"),
    "tests/sdk/test_group_lost_bodies.py": (4, "names the lives of a body, which it loses by itself"),
    "tests/sdk/test_group_results.py": (1, "counts lines that run in one body"),
    "tests/sdk/test_live_bodies.py": (1, "the policy that keeps bodies"),
    "tests/sdk/test_nothing_left.py": (
        1,
        "a sync flow that is stopped where it stands is left to the collector",
    ),
    "tests/sdk/test_tracing.py": (5, "spans of steps and groups end with what they stand for if the body stays"),
}
"""How many marks stand in a file, and why; a mark at the head of a file counts as one."""


def marks(module: Module) -> int:
    return sum(
        isinstance(node, ast.Attribute) and node.attr == MARK and ast.unparse(node) == f"pytest.mark.{MARK}"
        for node in ast.walk(module.tree)
    )


def test_the_tests_that_need_live_bodies_are_these() -> None:
    found = {m.name: count for m in modules("tests") if MARK in m.text and (count := marks(m))}
    assert found == {name: count for name, (count, _) in LEFT_OUT.items()}
