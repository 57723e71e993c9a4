"""Compares what was counted with the budget, and says what grew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.budget import budget
from tests.budget.budget import Ratio, Rule
from tests.budget.scenarios import Counted

PINNED = (3, 11)
"""The Python whose calls were counted; others make some more or fewer."""
_BOUND = re.compile(r"([0-9.]+)([!%])")
_SLACK = 1e-6


def bound_of(rule: Rule) -> float:
    """The most that this count may be."""
    measured = budget.MEASURED[rule.scenario, rule.count]
    found = _BOUND.fullmatch(rule.more)
    assert found is not None, rule
    more = float(found[1])
    return measured + (more if found[2] == "!" else measured * more / 100) + _SLACK


def excesses(scenario: str, counted: Counted) -> list[str]:
    """Every count of a scenario that is over its bound, for people."""
    return [text for rule in budget.RULES if rule.scenario == scenario for text in _excess(rule, counted)]


def _excess(rule: Rule, counted: Counted) -> Iterator[str]:
    value, bound = getattr(counted, rule.count), bound_of(rule)
    if value > bound:
        was = budget.MEASURED[rule.scenario, rule.count]
        yield (
            f"{rule.scenario}: {rule.count} per step grew from {was:g} to {value:g}; the bound is {bound:.4g}\n"
            f"  why:  {rule.reason}\n"
            f"  next: python -m tests.budget {rule.scenario}   shows the functions; if it has to be so, "
            "python -m tests.budget --write"
        )


def steeper(ratio: Ratio, counted: Counted, other: Counted) -> list[str]:
    """Which side's calls grow faster than they may, for people."""
    found = []
    for side in ("engine_calls", "host_calls"):
        is_now = getattr(counted, side) / getattr(other, side)
        if is_now > ratio.at_most:
            found.append(
                f"{side} per step of {ratio.scenario} are {is_now:.2f} times those of {ratio.of}; at most "
                f"{ratio.at_most:g}\n  why:  {ratio.reason}\n"
                f"  next: python -m tests.budget {ratio.scenario} {ratio.of}   compares their functions"
            )
    return found


def write(measured: dict[tuple[str, str], float]) -> None:
    """Put what was measured into `budget.py`."""
    path = Path(budget.__file__)
    kept = path.read_text().partition("MEASURED: dict")[0]
    lines = [f'    ("{scenario}", "{count}"): {value:.10g},' for (scenario, count), value in measured.items()]
    path.write_text(
        "\n".join([kept + "MEASURED: dict[tuple[str, str], float] = {", *lines, "}"])
        + '\n"""Per step, on Python 3.11."""\n'
    )
