"""One decision about one run: its entries, and the effects that wait for their commit (decide -> commit -> perform)."""

from __future__ import annotations

from stepwire.protocol.frames import CancelReason
from stepwire_engine.core.entries import Entry, Released, RunEnded
from stepwire_engine.core.fold import APPLY
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.units import EventRecord, Fact, WaitRow


class Turn:
    """One decision about one run: the entries of its next row and the effects that wait for their commit.

    Attributes:
        planned: Steps that became dispatchable and that no host has started.
        begun: Planned steps that the core performs itself.
        closing: Groups whose deadline passed and whose last wave is released with this turn.
        deadlines: Groups that were opened and steps that were planned with a deadline.
        accepted: It has a plan of the live body.
        retries: Steps that will be due at their `retry_at_ms`.
        cancelled: Attempts that are no longer wanted, and why.
        let_go: Steps that nobody waits for any more.
        released: The release to hand to the body.
        stopping: The body may decide nothing more.
        undoing: The compensation began with this turn.
        ended: The run reached a terminal state.
        facts: For other runs, written to the inbox by the run's number (0: it is named by id).
        facts_done, events, waits, waits_done, frees_key: As in Unit.
        wakes: The run is no longer dormant, whatever else happens.
        rests: The run becomes dormant, until `wake_ms` if nothing wakes it before.
    """

    __slots__ = (
        "accepted",
        "begun",
        "cancelled",
        "closing",
        "deadlines",
        "ended",
        "entries",
        "events",
        "facts",
        "facts_done",
        "frees_key",
        "let_go",
        "paused",
        "planned",
        "released",
        "rests",
        "resumed",
        "retries",
        "run",
        "stopping",
        "undoing",
        "unix_ms",
        "waits",
        "waits_done",
        "wake_ms",
        "wakes",
    )

    def __init__(self, run: Run, unix_ms: int) -> None:
        self.run = run
        self.unix_ms = unix_ms
        self.entries: list[Entry] = []
        self.accepted = False
        self.planned: list[Step] = []
        self.begun: list[Step] = []
        self.closing: list[Group] = []
        self.deadlines: list[Step | Group] = []
        self.retries: list[Step] = []
        self.cancelled: list[tuple[Lease, CancelReason]] = []
        self.let_go: list[Step] = []
        self.released: Released | None = None
        self.stopping = False
        self.undoing = False
        self.paused = False
        self.resumed = False
        self.ended: RunEnded | None = None
        self.facts: list[tuple[int, Fact]] = []
        self.facts_done: list[int] = []
        self.events: list[EventRecord] = []
        self.waits: list[WaitRow] = []
        self.waits_done: list[str] = []
        self.frees_key = False
        self.wakes = False
        self.rests = False
        self.wake_ms: int | None = None

    @property
    def changes(self) -> bool:
        """It changes more of the store than the journal."""
        return bool(
            self.facts
            or self.facts_done
            or self.events
            or self.waits
            or self.waits_done
            or self.frees_key
            or self.wakes
            or self.rests
        )

    def emit(self, entry: Entry) -> None:
        """Decide an entry: it is folded now and committed with the turn."""
        run = self.run
        self.entries.append(entry)
        APPLY[type(entry)](run, entry)
        if run.let_go:
            self.let_go.extend(run.let_go)
            run.let_go.clear()
            self.cancelled.extend(run.cancelled_leases)
            run.cancelled_leases.clear()
