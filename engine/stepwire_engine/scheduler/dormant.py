"""Which runs of the store have no owner: questions of the core's reconciler, answered in the reader thread.

It reads and repairs nothing. Facts that are on their way are not known here; the core knows them.
"""

from __future__ import annotations

from stepwire.protocol.plan import Invoke, WaitEvent
from stepwire_engine.core import causes
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run, StepState
from stepwire_engine.core.reads import DormantFound, DormantPage, OpenPage
from stepwire_engine.store.base import RunRecord, Store, StoreCorrupt

_IN_MEMORY = (RunState.PENDING, RunState.RUNNING, RunState.PAUSED)
SUCCESSORS_MAX = 100
"""Runs that are followed from a child that restarted itself; a line that is longer counts as going on."""


def forgotten(store: Store, page: DormantPage) -> DormantFound:
    """The dormant runs of one page that neither time nor an event nor another run would wake. Raises StoreError."""
    found = store.list_runs(states=(RunState.WAITING,), limit=page.limit, page_token=page.page)
    unowned: list[tuple[RunRecord, tuple[str, ...]]] = []
    for record in found.runs:
        if record.number in found.unreadable:
            continue
        if record.wake_ms is not None:
            if record.wake_ms < page.late_ms:
                unowned.append((record, ()))
            continue
        try:
            run = rebuild(record.number, [row.entries for row in store.journal(record.number)])
        except StoreCorrupt:
            continue  # Whoever asks for it is told; there is nothing that waking it would change.
        invoked = _invoked_in_vain(store, run)
        if invoked is not None:
            unowned.append((record, invoked))
    return DormantFound(tuple(unowned), found.next_page_token)


def in_progress(store: Store, page: OpenPage) -> tuple[tuple[RunRecord, ...], str]:
    """Records of one page of open runs that belong into memory, and where the next begins. Raises StoreError."""
    found = store.list_runs(states=_IN_MEMORY, limit=page.limit, page_token=page.page)
    return tuple([record for record in found.runs if record.number not in found.unreadable]), found.next_page_token


def _invoked_in_vain(store: Store, run: Run) -> tuple[str, ...] | None:
    """The runs that it waits for, all of which have ended or do not exist; None: an event or a run would wake it."""
    invoked: list[str] = []
    for step in run.open_steps():
        match step.spec:
            case WaitEvent(event=event):
                rows = store.waits(event, (run.number, ""), 1)
                if rows and rows[0].run == run.number:
                    return None
            case Invoke() if step.state is not StepState.BACKOFF:
                line = _ended_line(store, causes.child_run_id(run.run_id, step.path, step.attempt))
                if not line:
                    return None
                invoked += line
    return tuple(invoked)


def _ended_line(store: Store, run_id: str) -> list[str]:
    """The run and those that went on in its place, up to one that does not exist; empty: one of them goes on."""
    line: list[str] = []
    while len(line) < SUCCESSORS_MAX:
        line.append(run_id)
        try:
            record = store.find_run(run_id)
        except StoreCorrupt:
            return []  # It exists; what became of it is damaged.
        if record is None:
            return line
        if not record.state.terminal:
            return []
        run_id = causes.successor_run_id(run_id)
    return []
