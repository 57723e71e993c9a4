"""One decision about one run: its entries, and the effects that wait for their commit (decide -> commit -> perform)."""

from __future__ import annotations

import msgspec

from stepwire.protocol.frames import CancelReason
from stepwire_engine.core.entries import Entry, Released, RunEnded
from stepwire_engine.core.fold import APPLY
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.units import EventRecord, Fact, WaitRow


class Aside(msgspec.Struct):
    """What few turns have; attributes as of Turn."""

    begun: list[Step] = []
    closing: list[Group] = []
    deadlines: list[Step | Group] = []
    facts: list[tuple[int, Fact]] = []
    facts_done: list[int] = []
    events: list[EventRecord] = []
    waits: list[WaitRow] = []
    waits_done: list[str] = []


class Turn:
    """One decision about one run: the entries of its next row and the effects that wait for their commit.

    Attributes:
        aside: What few turns have; None: this one has nothing of it. Asking for one of its lists makes it.
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
        "aside",
        "cancelled",
        "ended",
        "entries",
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
        "wake_ms",
        "wakes",
    )

    def __init__(self, run: Run, unix_ms: int) -> None:
        self.run = run
        self.unix_ms = unix_ms
        self.entries: list[Entry] = []
        self.aside: Aside | None = None
        self.accepted = False
        self.planned: list[Step] = []
        self.retries: list[Step] = []
        self.cancelled: list[tuple[Lease, CancelReason]] = []
        self.let_go: list[Step] = []
        self.released: Released | None = None
        self.stopping = False
        self.undoing = False
        self.paused = False
        self.resumed = False
        self.ended: RunEnded | None = None
        self.frees_key = False
        self.wakes = False
        self.rests = False
        self.wake_ms: int | None = None

    @property
    def changes(self) -> bool:
        """It changes more of the store than the journal."""
        aside = self.aside
        if aside is not None and (aside.facts or aside.facts_done or aside.events or aside.waits or aside.waits_done):
            return True
        return self.frees_key or self.wakes or self.rests

    def _aside(self) -> Aside:
        if self.aside is None:
            self.aside = Aside()
        return self.aside

    @property
    def begun(self) -> list[Step]:
        return self._aside().begun

    @property
    def closing(self) -> list[Group]:
        return self._aside().closing

    @property
    def deadlines(self) -> list[Step | Group]:
        return self._aside().deadlines

    @property
    def facts(self) -> list[tuple[int, Fact]]:
        return self._aside().facts

    @property
    def facts_done(self) -> list[int]:
        return self._aside().facts_done

    @property
    def events(self) -> list[EventRecord]:
        return self._aside().events

    @property
    def waits(self) -> list[WaitRow]:
        return self._aside().waits

    @property
    def waits_done(self) -> list[str]:
        return self._aside().waits_done

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
