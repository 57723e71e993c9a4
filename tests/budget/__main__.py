"""`python -m tests.budget [SCENARIO [OTHER]]`: what the steps of a scenario cost, function by function.

Without arguments every count beside its bound; with two scenarios what the first has more of. `--write` measures
everything and writes the table of `budget.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from tests.budget import budget
from tests.budget.check import bound_of, write
from tests.budget.counter import Name, title
from tests.budget.scenarios import SCENARIOS, Counted, count

SHOWN = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write."""
    parser = argparse.ArgumentParser(prog="python -m tests.budget", description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS, help="its functions, by calls per step")
    parser.add_argument("other", nargs="?", choices=SCENARIOS, help="compare with this one")
    parser.add_argument("--top", type=int, default=SHOWN, metavar="N", help=f"functions of each side (default {SHOWN})")
    parser.add_argument("--write", action="store_true", help="write what is measured into budget.py")
    options = parser.parse_args(arguments)
    if options.write:
        _write()
    elif options.scenario is None:
        _all()
    else:
        _functions(count(options.scenario), options.other and count(options.other), options.top)
    return 0


def _write() -> None:
    counted = {name: count(name) for name in dict.fromkeys(rule.scenario for rule in budget.RULES)}
    write({(r.scenario, r.count): round(getattr(counted[r.scenario], r.count), 6) for r in budget.RULES})


def _all() -> None:
    print(f"{'scenario':14}{'per step':16}{'now':>12}{'measured':>12}{'bound':>12}")
    found: dict[str, Counted] = {}
    for rule in budget.RULES:
        counted = found.setdefault(rule.scenario, found.get(rule.scenario) or count(rule.scenario))
        now, was = getattr(counted, rule.count), budget.MEASURED[rule.scenario, rule.count]
        print(f"{rule.scenario:14}{rule.count:16}{now:12.4g}{was:12.4g}{bound_of(rule):12.4g}")


def _functions(one: Counted, other: Counted | None, top: int) -> None:
    for side in ("engine", "host"):
        calls: Counter[Name] = getattr(one, f"{side}_functions")
        others: Counter[Name] = getattr(other, f"{side}_functions") if other else Counter()
        per_step = {name: n / one.steps for name, n in calls.items()}
        before = {name: n / (other.steps if other else 1) for name, n in others.items()}
        by_growth = sorted(per_step, key=lambda name: before.get(name, 0.0) - per_step[name])
        print(f"\n{side}: {sum(per_step.values()):.1f} calls per step", end="")
        print(f", {sum(before.values()):.1f} in the other scenario" if other else "")
        for name in by_growth[:top]:
            compared = f"{per_step[name] - before.get(name, 0.0):+9.2f}" if other else ""
            print(f"{per_step[name]:9.2f}{compared}  {title(name)}")


if __name__ == "__main__":
    sys.exit(main())
