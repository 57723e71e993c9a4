"""Makes databases of dormant runs: `python -m benchmarks.dormant FILE --runs 1000000`.

One run is put to sleep by the real core; every other run is its units again, with an id, a number and times of its
own, written through the store's seam in large commits. So the file is what an engine would have left, without the
hours that hosts would need to make it. `python -m benchmarks.dormant --host ENGINE` serves the flow, for wakes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

import stepwire
from stepwire.protocol.frames import Hello, HostFrame, HostSection
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Plan, Sleep, StepKind, StepPlanned
from stepwire_engine.clock import SystemClock
from stepwire_engine.core.books import Now
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.entries import Planned, RunCreated
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.units import Receipt, Unit, UnitOutcome
from stepwire_engine.store.base import Store, StoreError
from stepwire_engine.store.sqlite import SqliteStore

FLOW = "sleeper"
SLEEP_SECONDS = 30 * 86_400.0
"""Every run has slept for the most part of this when its database is made."""
RUNS_PER_COMMIT = 5_000
_HOST = Hello("dormant", "dormant/0", flows=(FLOW,), bodies=1)


def make_database(
    path: Path, runs: int, *, first_due: float = 86_400.0, apart: float = 0.001, together: int = 1
) -> None:
    """Write a new database of sleeping runs, as a stopped engine leaves it.

    Args:
        path: It must not exist.
        runs: How many, 1 or more.
        first_due: Seconds from now until the first of them wakes by itself; negative: it is late.
        apart: Seconds from one wake to the next one.
        together: Runs that wake in the same millisecond.

    Raises:
        StoreError: it cannot be written.
    """
    store = SqliteStore(path, notify=lambda call: call(), on_failed=_raise)
    store.open()
    try:
        fill(store, runs, round((time.time() + first_due) * 1000), apart, together)
    finally:
        store.close()


def fill(store: Store, runs: int, first_due_ms: int, apart: float = 0.001, together: int = 1) -> None:
    """Write sleeping runs to an empty store that is open. Raises StoreError."""
    clock = SystemClock()
    registration, units = put_to_sleep(clock.run_id(), first_due_ms - round(SLEEP_SECONDS * 1000), store.claim())
    commit(store, registration)
    lateness = (round(n // together * apart * 1000) for n in range(runs))
    copies = (_again(units, n, clock.run_id(), late_ms) for n, late_ms in enumerate(lateness, 1))
    while batch := [unit for copy in islice(copies, RUNS_PER_COMMIT) for unit in copy]:
        commit(store, batch)


def put_to_sleep(run_id: str, at_ms: int, claim_epoch: int) -> tuple[list[Unit], list[Unit]]:
    """The units of a host that comes and goes, and those of a run that it starts to sleep, until the run is dormant."""
    at = Now(0.0, at_ms)
    core = EngineCore(CoreConfig(), claim_epoch, 0, at)
    units: list[Unit] = []

    def settle() -> None:
        while commits := core.take_commits():
            units.extend([commit.unit for commit in commits])
            core.committed(commits, [Receipt(UnitOutcome.COMMITTED)] * len(commits), at)

    host = core.open_session(_HOST, at)
    assert isinstance(host, Session)
    settle()
    data = Payload(msgspec.json.encode(SLEEP_SECONDS))
    core.start_run(None, run_id=run_id, seed=1, flow=FLOW, payload=data, key="", now=at)
    settle()
    sections = [section for _, frame in core.take_frames() for section in frame.runs]
    (fence,) = [section.advance.fence for section in sections if section.advance is not None]
    nap = StepPlanned("nap", StepKind.SLEEP, spec=Sleep(SLEEP_SECONDS))
    frame = HostFrame(1, runs=[HostSection(run_id, plans=[Plan(1, 0, fence, steps=(nap,))])])
    core.receive(host, host.stream, frame, at)
    settle()
    while core.runs:
        at = Now(at.mono + 1, at.unix_ms + 1000)
        core.receive(host, host.stream, HostFrame(), at)
        core.tick(at)
        settle()
    of_runs = [unit for unit in units if unit.run is not None]
    of_host = [unit for unit in units if unit.sessions]
    return [*of_host, Unit(claim_epoch, sessions_gone=(_HOST.instance_id,))], of_runs


def commit(store: Store, units: Sequence[Unit]) -> None:
    """Write units that all fit, and wait for it."""
    done = threading.Event()
    found: list[Receipt] = []

    def answered(receipts: Sequence[Receipt]) -> None:
        found.extend(receipts)
        done.set()

    store.submit(units, answered)
    done.wait()
    assert all(receipt.outcome is UnitOutcome.COMMITTED for receipt in found), found


def _again(units: Sequence[Unit], number: int, run_id: str, later_ms: int) -> Iterator[Unit]:
    """The units of a run as those of another one, which was started `later_ms` later."""
    replace = msgspec.structs.replace
    for unit in units:
        entries = []
        for entry in unit.entries:
            match entry:
                case RunCreated():
                    entry = replace(entry, run_id=run_id, seed=number, at_ms=entry.at_ms + later_ms)
                case Planned():
                    entry = replace(entry, at_ms=entry.at_ms + later_ms)
            entries.append(entry)
        record = unit.record
        if record is not None:
            wake_ms = None if record.wake_ms is None else record.wake_ms + later_ms
            created_at_ms = record.created_at_ms + later_ms
            record = replace(record, number=number, run_id=run_id, created_at_ms=created_at_ms, wake_ms=wake_ms)
        yield replace(unit, run=number, entries=tuple(entries), record=record, events_since_ms=0)


def _raise(error: StoreError) -> None:
    raise error


# ---- the flow, for wakes


async def sleeper(ctx: stepwire.Context, seconds: float) -> bool:
    """What the runs of these databases do."""
    await ctx.step.sleep("nap", seconds)
    return True


def serve(address: str, *, on_host: Callable[[stepwire.Host], object] = id) -> int:
    """Serve the flow until SIGTERM."""
    host = stepwire.Host("sleepers")
    host.flow(sleeper)
    on_host(host)
    return host.run(address)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one database, or serve its flow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dormant", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="the database to write; it must not exist")
    parser.add_argument("--runs", type=int, default=1_000_000, metavar="N", help="how many (default 1,000,000)")
    parser.add_argument("--first-due", type=float, default=86_400.0, metavar="S", help="seconds until the first wake")
    parser.add_argument("--apart", type=float, default=0.001, metavar="S", help="seconds between two wakes")
    parser.add_argument("--together", type=int, default=1, metavar="N", help="runs that wake at once (default 1)")
    parser.add_argument("--host", metavar="ENGINE", help="serve the flow to this engine instead")
    options = parser.parse_args(arguments)
    if options.host:
        return serve(options.host)
    if options.file is None or options.file.exists():
        parser.error("name a file that does not exist")
    began = time.perf_counter()
    due = {name: getattr(options, name) for name in ("first_due", "apart", "together")}
    make_database(options.file, options.runs, **due)
    took = time.perf_counter() - began
    print(f"{options.file}: {options.runs:,} dormant runs, {options.file.stat().st_size:,} bytes, in {took:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
