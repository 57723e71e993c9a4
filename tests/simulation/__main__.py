"""Play histories by hand: `python -m tests.simulation FIRST [LAST]`."""

from __future__ import annotations

import sys

from tests.simulation.simulator import World


def main(first: int, last: int) -> None:
    """Play the seeds from `first` up to and including `last`."""
    for seed in range(first, last + 1):
        World(seed).run()
    print(f"{last - first + 1} histories, every invariant held")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[-1]))
