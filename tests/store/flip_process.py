"""Flips bits in copies of a database and asks a store for everything in them. Arguments: folder, seed, flips.

A process of its own, so that a crash inside SQLite is a failed test and not a dead test runner. Prints one JSON
object: how often the damage was refused, was without effect, or was served.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire_engine.core.entries import RunState
from stepwire_engine.store.base import Store, StoreError, Unit, WaitRow
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.samples import Desk, at_once, dormant, ended, event, matched, never_fails, session

RUNS = range(1, 41)
DORMANT = range(41, 61)
STATES = list(RunState)
EVENT_NAMES = ("paid", "sent")
LATE = 2**62


def write(path: Path) -> None:
    """A database with something in every table the engine uses, and several pages of journal."""
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    desk = Desk(store).open()
    desk.commit(*[desk.created(run, f"flow-{run % 3}", STATES[run % 7], key=f"key-{run}") for run in RUNS])
    for seq in range(1, 6):
        desk.commit(*[desk.row(run, seq, ended(seq, bytes([run]) * 250)) for run in RUNS])
    desk.commit(desk.row(1, 6, ended(6, b"large" * 20_000)))
    options = [FlowOptions(f"flow-{n}", n, triggers=(Trigger("paid"),) * (n % 3)) for n in range(9)]
    sessions = [session(f"host-{n}", "flow-0", f"flow-{n}", at_ms=n, flow_options=(options[n],)) for n in range(9)]
    desk.commit(Unit(desk.epoch, sessions=tuple(sessions), inbox=tuple([matched(run) for run in RUNS])))
    waits = {run: (WaitRow(run, "wait", EVENT_NAMES[run % 2], "data.n > `3`"),) for run in DORMANT}
    desk.commit(*[Unit(desk.epoch, run, 0, record=dormant(run, 50 + run), waits=waits[run]) for run in DORMANT])
    events = [event(f"event-{n}", EVENT_NAMES[n % 2], due_ms=n, sent_ms=n, data=b"e" * 9 * n) for n in range(40)]
    (receipt,) = desk.commit(Unit(desk.epoch, events=tuple(events)))
    desk.commit(Unit(desk.epoch, events_delivered=receipt.events[::3]))
    store.close()


QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "list": lambda store: store.list_runs(limit=1000),
    "list flow": lambda store: store.list_runs(flow="flow-1"),
    "list state": lambda store: store.list_runs(states=[RunState.FAILED, RunState.RUNNING]),
    "open runs": lambda store: list(store.open_runs()),
    "last run": lambda store: store.last_run_number(),
    "sessions": lambda store: store.sessions(),
    "flows": lambda store: store.known_flows(),
    "inbox": lambda store: store.inbox(),
    "due runs": lambda store: store.due_runs(LATE, 100),
    "flow options": lambda store: store.flow_options(),
    "undelivered": lambda store: store.undelivered(LATE, 100),
}
for _name in EVENT_NAMES:
    QUESTIONS[f"waits {_name}"] = partial(lambda name, store: store.waits(name, (0, ""), 100), _name)
    QUESTIONS[f"events {_name}"] = partial(lambda name, store: store.events(name, 0, 100), _name)
for _run in RUNS:
    QUESTIONS[f"journal {_run}"] = partial(lambda run, store: store.journal(run), _run)
    QUESTIONS[f"run {_run}"] = partial(lambda run, store: store.find_run(f"run-{run}"), _run)
    QUESTIONS[f"key {_run}"] = partial(lambda run, store: store.find_key(f"key-{run}"), _run)
for _run in DORMANT:
    QUESTIONS[f"record {_run}"] = partial(lambda run, store: store.record(run), _run)


def answers(path: Path) -> dict[str, Any]:
    """Every answer of a fresh store, or the type of its refusal."""
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    try:
        store.open()
    except StoreError as error:
        return {"open": type(error).__name__}
    try:
        return {name: _ask(store, question) for name, question in QUESTIONS.items()}
    finally:
        store.close()


def _ask(store: Store, question: Callable[[Store], Any]) -> Any:
    try:
        return question(store)
    except StoreError:
        return StoreError


def main(folder: Path, seed: int, flips: int) -> None:
    rng = random.Random(seed)
    write(folder / "original.db")
    original = (folder / "original.db").read_bytes()
    truth = answers(folder / "original.db")
    assert StoreError not in truth.values() and "open" not in truth
    copy = folder / "copy.db"
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for _ in range(flips):
        bit = rng.randrange(8 * len(original))
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(damaged)
        found = answers(copy)
        copy.unlink()
        served = [name for name, answer in found.items() if name != "open" and answer not in (StoreError, truth[name])]
        wrong += [f"bit {bit} (page {bit // 8 // 4096 + 1}, byte {bit // 8 % 4096}): {name}" for name in served]
        refused = "open" in found or StoreError in found.values()
        outcomes["wrong" if served else "refused" if refused else "no effect"] += 1
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "bytes": len(original)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
