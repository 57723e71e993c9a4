"""Damages copies of a database and asks a store for everything in them. Arguments: folder, seed, times.

Bits are flipped and files cut: in a database that was closed, in one whose writer was killed, and in the log of that
one. A process of its own, so that a crash inside SQLite is a failed test and not a dead test runner. Prints one JSON
object: how often the damage was refused, left out, without effect, or served.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire_engine.core.entries import RunState
from stepwire_engine.store.base import RunPage, Store, StoreError, Unit, WaitRow
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.samples import Desk, at_once, dormant, ended, event, matched, never_fails, session

RUNS = range(1, 21)
DORMANT = range(21, 31)
LATER = 8
"""Commits in the log of the writer that was killed."""
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
    desk.commit(desk.row(1, 6, ended(6, b"large" * 14_000)))
    options = [FlowOptions(f"flow-{n}", n, triggers=(Trigger("paid"),) * (n % 3)) for n in range(9)]
    sessions = [session(f"host-{n}", "flow-0", f"flow-{n}", at_ms=n, flow_options=(options[n],)) for n in range(9)]
    desk.commit(Unit(desk.epoch, sessions=tuple(sessions), inbox=tuple([matched(run) for run in RUNS])))
    waits = {run: (WaitRow(run, "wait", EVENT_NAMES[run % 2], "data.n > `3`"),) for run in DORMANT}
    desk.commit(*[Unit(desk.epoch, run, 0, record=dormant(run, 50 + run), waits=waits[run]) for run in DORMANT])
    events = [event(f"event-{n}", EVENT_NAMES[n % 2], due_ms=n, sent_ms=n, data=b"e" * 9 * n) for n in range(40)]
    (receipt,) = desk.commit(Unit(desk.epoch, events=tuple(events)))
    desk.commit(Unit(desk.epoch, events_delivered=receipt.events[::3]))
    store.close()


def write_later(path: Path, images: Path) -> list[Path]:
    """Go on writing to the database, and copy it with its log after each commit, as a kill would leave it."""
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    desk = Desk(store).open()
    copies = []
    for n in range(LATER):
        units = [desk.row(run, 6 if run > 1 else 7, ended(n, bytes([n]) * 300)) for run in (n + 1, n + 9)]
        facts = Unit(desk.epoch, inbox=(matched(n + 1, n),), events=(event(f"later-{n}", due_ms=n, data=b"l" * 90),))
        desk.commit(*units, facts)
        copies.append(images / f"later-{n}.db")
        for ending in ("", "-wal"):
            # By another process: closing the file in this one would drop the locks that SQLite has on it.
            subprocess.run(["cp", f"{path}{ending}", f"{copies[-1]}{ending}"], check=True)
    store.close()
    return copies


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


class Seen(NamedTuple):
    """What a store said.

    Attributes:
        answers: To each question; StoreError for one that it refused. Empty: it did not open.
        told: It named damaged rows.
    """

    answers: dict[str, Any]
    told: bool


def look(path: Path) -> Seen:
    """Every answer of a fresh store."""
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    try:
        store.open()
    except StoreError:
        return Seen({}, told=True)
    try:
        found = {name: _ask(store, question) for name, question in QUESTIONS.items()}
        return Seen(found, bool(store.take_damage()))
    finally:
        store.close()


def _ask(store: Store, question: Callable[[Store], Any]) -> Any:
    try:
        return question(store)
    except StoreError:
        return StoreError


def wrong(seen: Seen, truth: Seen) -> list[str]:
    """Questions that were answered, and not as they should have been."""
    return [name for name, answer in seen.answers.items() if not _right(answer, truth.answers[name], seen.told)]


def _right(answer: Any, truth: Any, told: bool) -> bool:
    if answer is StoreError or answer == truth:
        return True
    if isinstance(answer, RunPage):
        answer = [run for run in answer.runs if run.number not in answer.unreadable]
        truth = truth.runs
    # Something is missing: that is right if it was said.
    rest = iter(truth) if isinstance(truth, list | tuple) else iter(())
    return told and isinstance(answer, list | tuple) and all(row in rest for row in answer)


class Case(NamedTuple):
    """A kind of damage.

    Attributes:
        source: The database that is damaged.
        ending: Of its file that is damaged.
        states: What may be served: all answers those of one of these.
        cuts: The file is cut, instead of one of its bits flipped.
    """

    source: Path
    ending: str
    states: list[Seen]
    cuts: bool


def cases(folder: Path) -> dict[str, tuple[int, Case]]:
    """Each kind of damage, and how many of 20 are of that kind."""
    original = folder / "original.db"
    write(original)
    closed = look(original)
    shutil.copy(original, folder / "live.db")
    images = write_later(folder / "live.db", folder)
    states = [closed, *[_look_at_copy(image) for image in images]]
    for state in states:
        assert state.answers and StoreError not in state.answers.values() and not state.told
    last = images[-1]
    return {
        "flip": (11, Case(original, "", [closed], cuts=False)),
        "cut": (1, Case(original, "", [closed], cuts=True)),
        "flip after kill": (3, Case(last, "", states[-1:], cuts=False)),
        # Damage to the last transaction in the log is not told from a power cut during its commit.
        "flip in log": (4, Case(last, "-wal", states[-2:], cuts=False)),
        "cut in log": (1, Case(last, "-wal", states, cuts=True)),
    }


def _look_at_copy(image: Path) -> Seen:
    copy = image.with_name("seen.db")
    for ending in ("", "-wal"):
        shutil.copy(f"{image}{ending}", f"{copy}{ending}")
    return look(copy)


def damaged(content: bytes, rng: random.Random, cuts: bool) -> tuple[bytes, str]:
    """The content with one damage, and where that is."""
    bit = rng.randrange(8 * len(content))
    if cuts:
        return content[: bit // 8], f"cut at {bit // 8}"
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed), f"bit {bit} (page {bit // 8 // 4096 + 1}, byte {bit // 8 % 4096})"


def main(folder: Path, seed: int, times: int) -> None:
    rng = random.Random(seed)
    kinds = cases(folder)
    contents = {Path(f"{case.source}{end}"): b"" for _, case in kinds.values() for end in ("", "-wal")}
    contents = {path: path.read_bytes() for path in contents if path.exists()}
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in kinds}
    served: list[str] = []
    copy = folder / "copy.db"
    for name in rng.choices(list(kinds), [weight for weight, _ in kinds.values()], k=times):
        case = kinds[name][1]
        for ending in ("", "-wal"):
            content = contents.get(Path(f"{case.source}{ending}"))
            place = ""
            if content is not None and ending == case.ending:
                content, place = damaged(content, rng, case.cuts)
                where = place
            Path(f"{copy}{ending}").unlink(missing_ok=True)
            if content is not None:
                Path(f"{copy}{ending}").write_bytes(content)
        seen = look(copy)
        mistakes = min([wrong(seen, state) for state in case.states], key=len)
        if mistakes:
            served.append(f"{name}, {where}: {', '.join(mistakes)}")
        outcomes[name][_outcome(seen, bool(mistakes))] += 1
    print(json.dumps({"outcomes": outcomes, "wrong": served}))


def _outcome(seen: Seen, mistaken: bool) -> str:
    if mistaken:
        return "wrong"
    if not seen.answers:
        return "not opened"
    if StoreError in seen.answers.values():
        return "refused"
    return "left out" if seen.told else "no effect"


def quick(folder: Path) -> Path:
    """Where a thousand files are made and opened: in memory where possible. No disk fails here, but files."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="stepwire-flip-", dir=quick(Path(sys.argv[1]))) as made:
        main(Path(made), int(sys.argv[2]), int(sys.argv[3]))
