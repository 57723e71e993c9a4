"""Nothing stays in memory or in the side tables once every run has ended: of the engine, and of its hosts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from stepwire_engine.core.books import Commit, Deadline, StopGrace
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.turn import Turn

if TYPE_CHECKING:
    from tests.simulation.hosts import SimHost
    from tests.simulation.simulator import World


def check_nothing_left(world: World) -> None:
    """Raises AssertionError with what is left."""
    left = engine_leftovers(world) | store_leftovers(world)
    assert not left, f"I13: {left}"
    for host in world.every_host():
        left = host_leftovers(host, world.truth.stuck())
        assert not left, f"I13: {host.instance}: {left}"


def engine_leftovers(world: World) -> dict[str, object]:
    """What the core still has of runs that are over."""
    core = world.core
    assert core is not None
    books = core._books
    books.timers._sweep()
    performed = core._performed
    inbox, delivery, dormancy = performed._inbox, performed._delivery, performed._dormancy
    tasks, wanted = core._dispatcher.slots._tasks, core._dispatcher.bodies._wanted
    for lane in list(tasks.queues):
        tasks.head(lane)
    for flow in list(wanted.queues):
        wanted.head(flow)
    left: dict[str, object] = {
        "runs": books.runs,
        "by_number": books.by_number,
        "keys": books.keys,
        "broken": books.broken,
        "last_commit": books.last_commit,
        "timers": books.timers._heap,
        "freed": books.freed,
        "loads": books.loads,
        "reads": books.reads,
        "tasks": tasks.queues,
        "wanted bodies": wanted.queues,
        "reclaimed": core._liveness._reclaimed,
        "facts": inbox._rows,
        "starts": inbox._starts,
        "pending facts": inbox._pending,
        "unknown facts": inbox._unknown,
        "held facts": inbox._held,
        "retried facts": inbox._retries,
        "lanes": delivery._lanes,
        "stalled lanes": delivery._stalled,
        "look-backs": performed._look_back._delivering,
        "waking": dormancy._waking,
        "asked for": dormancy._asked_for,
    }
    for session in core.sessions.values():
        left[f"leases of {session.id}"] = session.leases
        left[f"bodies of {session.id}"] = session.bodies
        left[f"closures of {session.id}"] = session.closures
        left[f"resumed bodies of {session.id}"] = session.resumed_bodies
    return _others(left, world.truth.stuck())


def _others(left: dict[str, object], stuck: Collection[str]) -> dict[str, object]:
    """Without runs that stay as they are: those that wait for such a run need not be dormant yet."""
    found: dict[str, object] = {}
    for name, what in left.items():
        if isinstance(what, dict):
            what = {key: value for key, value in what.items() if not (_names(stuck, key) or _is_of(stuck, value))}
        elif isinstance(what, list):
            what = [value for value in what if not _is_of(stuck, value)]
        if what:
            found[name] = what
    return found


def _names(stuck: Collection[str], key: object) -> bool:
    """Whether a key is the id of such a run, or one of a run and a path."""
    return (key[0] if isinstance(key, tuple) else key) in stuck


def _is_of(stuck: Collection[str], value: object) -> bool:
    """Whether this is of such a run while it is in memory; what the engine has let go is nobody's."""
    run = _run_of(value)
    return run is not None and run.run_id in stuck and not (run.broken or run.state.terminal)


def _run_of(value: object) -> Run | None:
    match value:
        case Run():
            return value
        case (_, _, timed):
            return _run_of(timed)
        case Step() | Group() | StopGrace():
            return value.run
        case Lease() | Deadline():
            return value.step.run
        case Commit(turn=Turn()):
            return value.turn.run
        case _:
            return None


def store_leftovers(world: World) -> dict[str, object]:
    """What the store still has beside journals, records, keys, sessions and delivered events.

    Runs that stay as they are, because a journal cannot be read, may keep what is theirs.
    """
    store, stuck = world.store, world.truth.stuck()
    numbers = {facts.number for run_id, facts in world.truth.runs.items() if run_id in stuck}
    rows = [world.truth.inbox[number] for number in store._inbox]
    left: dict[str, object] = {
        "inbox": [row for row in rows if not world.truth.is_for(row, stuck)],
        "waits": {run: waits for run, waits in store._waits.items() if run not in numbers},
        "wakes": store._wakes.keys() - numbers,
        "undelivered": store._undelivered,
    }
    return {name: what for name, what in left.items() if what}


def host_leftovers(host: SimHost, stuck: Collection[str] = ()) -> dict[str, object]:
    """What a host process still has of runs that are over."""
    session = host.session
    left: dict[str, object] = {
        "bodies": host.bodies,
        "waiting": host.waiting,
        "running": host.running,
        "session bodies": session._bodies,
        "session attempts": session._attempts,
        "session finished": session._finished,
        "session queue": session._queue,
        "session unacked": session._unacked,
    }
    return _others(left, stuck)
