"""Play histories by hand: `python -m tests.simulation FIRST [LAST]`."""

from __future__ import annotations

import sys
from collections import Counter

from tests.simulation.simulator import World


def main(first: int, last: int) -> None:
    """Play the seeds from `first` up to and including `last`, every kind of fault, and say what was reached."""
    reached: Counter[str] = Counter()
    for seed in range(first, last + 1):
        world = World(seed)
        world.run()
        reached += world.reached
    print(f"{last - first + 1} histories, every invariant held")
    for what, times in sorted(reached.items()):
        print(f"{times:8} {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[-1]))
