"""Histories of the suite, in portions that two processes can share; a portion is played once per process."""

from __future__ import annotations

import functools
from collections import Counter

from tests.simulation.simulator import World

PORTION = 125
"""Histories of one test: some five seconds."""
PORTIONS = 4
"""Portions of one test file."""
RARE = {
    "attempt adopted",
    "began ahead",
    "body adopted",
    "cancel while undoing",
    "commit refused",
    "commit refused while the disk is full",
    "crash after commit",
    "crash between two commits that were not synced",
    "crash with a commit that survived",
    "dark link",
    "deadline of a group passed",
    "deadline passed while a result was in flight",
    "decision parked",
    "dormant run",
    "dormant run woken by a timer",
    "dormant run woken by an event",
    "dormant run woken by cancel",
    "dormant run woken by its child",
    "dormant run woken by its parent's end",
    "end of a branch held back",
    "engine crash",
    "engine crash after a frame",
    "engine crash before it spoke",
    "engine crash between two events",
    "engine crash between two frames",
    "engine drains",
    "engine stopped for a while",
    "event of the past taken",
    "event with a known id",
    "evict",
    "evict in user code",
    "evict of a body that waits",
    "fact found in the inbox at start",
    "failure told",
    "flapping link",
    "frame in chunks",
    "frame over the wire",
    "goodbye",
    "half-open link, nothing reaches the engine",
    "half-open link, nothing reaches the host",
    "host crash",
    "host crash between two events",
    "host drains",
    "host left",
    "host left with nothing to do",
    "host stopped for less than its session",
    "host stopped for longer than its session",
    "journal unreadable",
    "journal unreadable at start",
    "key of a child in use",
    "limit of a group reached",
    "race_lost while executing",
    "rejected for want of a slot",
    "replaced by a process of the same identity",
    "restarted",
    "resume",
    "resume with an unacked plan or result",
    "run started by an event",
    "run that stays as it is",
    "run_cancelled while executing",
    "session lost",
    "several batches in one sync",
    "slow link to the engine",
    "slow link to the host",
    "stale result",
    "step abandoned",
    "timeout while executing",
    "undo after engine crash",
    "undo by replay on another host",
    "user loop blocked",
    "wall clock set",
    "went on under another name",
}
"""Branches of hosts and engine that the histories of each file must reach."""


@functools.cache
def play(portion: int) -> Counter[str]:
    """Play one portion of seeds with every kind of fault; what they reached."""
    reached: Counter[str] = Counter()
    for seed in range(portion * PORTION, (portion + 1) * PORTION):
        world = World(seed)
        world.run()
        reached += world.reached
    return reached


def never_reached(portions: range) -> set[str]:
    """Which rare branches none of these histories reached."""
    return RARE - set(sum([play(portion) for portion in portions], Counter[str]()))
