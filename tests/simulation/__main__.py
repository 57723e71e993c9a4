"""Play histories by hand.

python -m tests.simulation SEED           one history, as a failed test names it
python -m tests.simulation FIRST LAST     all of them, and what they reached
python -m tests.simulation --soak 600     random ones until the time (in seconds) is over
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tests.simulation.simulator import FAULTS, FEATURES, World


def main(arguments: list[str]) -> int:
    """Play what the arguments say. Returns 1 if an invariant broke, after saying how to replay it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Play histories of the simulator.")
    parser.add_argument("seeds", nargs="*", type=int, metavar="SEED", help="one seed, or the first and the last one")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="play random seeds for so long")
    parser.add_argument("--kinds", help="faults that may happen, with commas: " + ",".join(FAULTS))
    parser.add_argument("--features", help="what flows and clients do, with commas: " + ",".join(FEATURES))
    parser.add_argument("--faults", type=float, default=0.8, help="faults per second of virtual time (default 0.8)")
    parser.add_argument("--refusals", type=float, default=0.0, help="chance that the store refuses a batch")
    parser.add_argument("--live-idle", type=float, default=1.0, help="seconds until a run that waits is dormant")
    parser.add_argument("--runs", type=int, default=3, help="runs that clients start")
    given = parser.parse_args(arguments)
    if (given.soak is None) == (not given.seeds) or len(given.seeds) > 2:
        parser.error("give one seed, the first and the last one, or --soak SECONDS")
    logging.getLogger("stepwire").addHandler(logging.NullHandler())  # Damaged journals are part of the play.
    world: dict[str, Any] = {
        "kinds": FAULTS if given.kinds is None else _names(given.kinds),
        "features": FEATURES if given.features is None else _names(given.features),
        "faults": given.faults,
        "refusals": given.refusals,
        "live_idle": given.live_idle,
        "runs": given.runs,
    }
    seeds: Iterable[int] = range(given.seeds[0], given.seeds[-1] + 1) if given.seeds else _soaking(given.soak)
    return _play(seeds, world)


def _names(value: str) -> tuple[str, ...]:
    return tuple([name for name in value.split(",") if name])


def _soaking(seconds: float) -> Iterator[int]:
    until = time.monotonic() + seconds
    first = random.SystemRandom().randrange(2**40)
    return itertools.takewhile(lambda _: time.monotonic() < until, itertools.count(first))


def _play(seeds: Iterable[int], options: dict[str, Any]) -> int:
    reached: Counter[str] = Counter()
    played = faults = 0
    began = time.process_time()
    for seed in seeds:
        world = World(seed, **options)
        try:
            world.run()
        except AssertionError as error:
            print(f"seed {seed} broke an invariant after {played} histories: {error}", file=sys.stderr)
            print("\n".join(getattr(error, "__notes__", [])), file=sys.stderr)
            raise
        played += 1
        faults += world.faults_injected
        reached += world.reached
    seconds = time.process_time() - began
    for what, times in sorted(reached.items()):
        print(f"{times:8} {what}")
    rate = played / seconds * 60 if seconds else 0.0
    print(f"{played} histories with {faults} faults beside crashes between steps; every invariant held")
    print(f"{rate:.0f} histories per minute of one core ({seconds:.1f} s of processor time)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
