"""The end of every turn: what its entries made releasable is released, and a run that is at its end ends.

Called once per turn, after all its events, so that one frame's results make one release.
"""

from __future__ import annotations

from operator import attrgetter

from stepwire_engine.core import deadlines, ending
from stepwire_engine.core.entries import Released, RunStats
from stepwire_engine.core.model import Group, Step
from stepwire_engine.core.turn import Turn

_declaration_order = attrgetter("scope.index", "order")


def settle(turn: Turn) -> None:
    """Close the turn: release what its entries made releasable, and end the run if its body ended.

    Called once per turn, after all its events, so that one frame's results make one release.
    """
    run = turn.run
    if run.state.terminal:
        return
    if run.stopping is None and run.body_ended is not None:
        ending.end_body(turn, run.body_ended)
    if run.stopping is not None:
        ending.go_on(turn)
    elif run.body_ended is None and (run.dirty or run.fresh or turn.aside is not None):
        _release(turn)


def _release(turn: Turn) -> None:
    run = turn.run
    closing = () if turn.aside is None else turn.closing
    for group in closing:
        run.fresh.extend(_wave(group))
    for group in run.dirty:
        group.dirty = False
        if group.closing and group.busy == 0 and group not in closing:
            deadlines.expire_group(turn, group)
        elif wave_closed(group) and not group.closing:
            run.fresh.extend(_wave(group))
    if run.dirty:
        run.dirty.clear()
    if not run.fresh:
        return
    # A later plan of the same turn may have let go what ended in it.
    paths = tuple([item.path for item in run.fresh if not item.released])
    run.fresh = []
    if not paths:
        return
    stats = run.stats
    entry = Released(
        run.release_seq + 1,
        paths,
        turn.unix_ms,
        RunStats(stats.advances, stats.executes, 0, stats.body_entries),
    )
    turn.emit(entry)
    turn.released = entry


def _wave(group: Group) -> list[Step]:
    """What waits for the group's wave, in declaration order."""
    return sorted(group.finished, key=_declaration_order)


def wave_closed(group: Group) -> bool:
    """A WAIT wave closes when no branch is BUSY and no step directly in its branches lacks an outcome (MISSION P6)."""
    return group.busy == 0 and group.unfinished == 0 and bool(group.finished) and group.ended is None
