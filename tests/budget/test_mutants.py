"""The budget notices what it is there for: faults of speed are planted, and its checks must find each."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.budget import budget
from tests.budget.check import PINNED, excesses, steeper
from tests.budget.scenarios import SCENARIOS, Counted, count

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.live_bodies,
    pytest.mark.skipif(sys.version_info[:2] != PINNED, reason="the budget is that of Python 3.11"),
]
counted = functools.cache(count)
PACKAGES = {"engine": "stepwire_engine.", "host": "stepwire."}


def once_per_step(side: str, found: Counted) -> Iterator[tuple[type, str, FunctionType]]:
    """Methods of the product that one side calls once per step, whatever they are by now."""
    calls = getattr(found, f"{side}_functions")
    codes = {name for name, n in calls.items() if isinstance(name, CodeType) and 0 <= n - found.steps <= 20}
    for module in [m for name, m in sorted(sys.modules.items()) if name.startswith(PACKAGES[side])]:
        for cls in [value for value in vars(module).values() if isinstance(value, type)]:
            if cls.__module__ == module.__name__:
                methods = [(n, f) for n, f in vars(cls).items() if isinstance(f, FunctionType) and f.__code__ in codes]
                yield from [(cls, name, method) for name, method in methods]


def plant(monkeypatch: pytest.MonkeyPatch, side: str, found: Counted, fault: Callable[[], object]) -> str:
    """Make a method that is called once per step do something more; says which."""
    cls, name, method = next(once_per_step(side, found))

    def slower(*args: Any, **kwargs: Any) -> Any:
        fault()
        return method(*args, **kwargs)

    monkeypatch.setattr(cls, name, slower)
    return f"{cls.__name__}.{name}"


@pytest.mark.parametrize("side", ["engine", "host"])
def test_one_more_call_per_step_is_noticed(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = counted("group_1000")
    for rule in budget.RULES:  # By now there may be fewer, or more, than the table says.
        if rule.scenario == "group_1000":
            monkeypatch.setitem(budget.MEASURED, (rule.scenario, rule.count), getattr(right, rule.count))
    assert not excesses("group_1000", right)
    planted = plant(monkeypatch, side, right, int)
    (text,) = excesses("group_1000", count("group_1000"))
    assert f"group_1000: {side}_calls per step grew from" in text, planted
    assert "python -m tests.budget group_1000" in text


def test_what_looks_at_every_open_step_in_every_wave_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = next(ratio for ratio in budget.RATIOS if ratio.scenario == "dribble_200")
    steps = 0

    def look_at_all() -> None:
        for _ in range(steps):
            len("")

    right = counted(ratio.of)
    assert not steeper(ratio, counted(ratio.scenario), right)
    planted = plant(monkeypatch, "engine", right, look_at_all)
    steps = SCENARIOS[ratio.of].steps
    few = count(ratio.of)
    steps = SCENARIOS[ratio.scenario].steps
    (text,) = steeper(ratio, count(ratio.scenario), few)
    assert text.startswith("engine_calls"), planted


def test_a_second_commit_of_the_same_is_noticed() -> None:
    twice = count("one_step")
    twice.commits += 1
    (text,) = [text for text in excesses("one_step", twice) if "commits" in text]
    assert "commits per step grew from 3 to 4" in text
