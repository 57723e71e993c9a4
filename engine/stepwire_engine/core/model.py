"""A run in memory: the value that journal entries fold into, and what hosts hold of it at the moment.

The durable part changes only in `fold.py`. The volatile part (leases, the live body) is never journaled;
it follows from dispatching and is rebuilt by resume and re-dispatch. This module decides nothing.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchOutcome,
    Fence,
    GroupEnded,
    GroupOpened,
    RetryPolicy,
    StepKind,
    StepSpec,
    Undo,
)
from stepwire_engine.core.entries import AttemptEnded, ParentStep, RunState, RunStats, RunStopping

PERFORMED = frozenset({StepKind.SLEEP, StepKind.WAIT_EVENT, StepKind.SEND_EVENT, StepKind.INVOKE})
"""Kinds that the core performs itself: they have no lease and hold no slot."""


class StepState(enum.IntEnum):
    """Durable states of a step. Whether a PENDING step executes is a matter of its lease."""

    PENDING = 1
    BACKOFF = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

    final: bool
    """It has its outcome. Stored, for it is asked several times per step."""

    def __init__(self, number: int) -> None:
        self.final = number >= 4


class RunPhase(enum.IntEnum):
    """What a run is doing, beside its state; the numbers are those of `run.proto` (DESIGN 4)."""

    BODY = 1
    CANCELLING = 2
    UNDOING = 3


class Held(msgspec.Struct, eq=False):
    """What is told apart by being itself, and is hardly changed: a Struct is made faster than other objects."""

    __repr__ = object.__repr__


class Lease(Held):
    """A session's right to one attempt.

    Attributes:
        frame: The engine frame that carried its Execute, or its Cancel if the host began it by itself; 0: none did.
            A Report that answers a later frame and does not list the attempt says that the host does not have it.
        cancelled: Why the host was told to stop it; None: it was not.
        beside: The live body that the same host had before it got this attempt; it keeps the output for it.
        ahead: The host had no free slot when it got this attempt, and lets it wait for one for a moment.
    """

    step: Step
    session_id: str
    fence: Fence
    since: float
    attempt: int
    frame: int = 0
    cancelled: CancelReason | None = None
    beside: Fence | None = None
    ahead: bool = False


class Particulars(Held):
    """What only few steps have, so that the others do not carry it.

    Attributes:
        spec: What the step does, for kinds beyond RUN and TASK.
        undo: How it is compensated.
        deadline: Seconds from its plan, all attempts included.
        due_ms: When it goes on by itself: the end of a sleep, the timeout of a wait. Volatile, except for what follows
            from the plan.
        undo_of: The step that this one compensates.
        output: Of `undo_of`, once it was read from the journal. Volatile.
        child: Id of the run that an INVOKE step waits for.
        asked: Of a WAIT_EVENT step planned in this engine's life: number of the last event that was stored before
            its plan was; -1 until that is committed. Volatile.
        traceparent: The context of its span; empty: it has none.
    """

    spec: StepSpec | None = None
    undo: Undo | None = None
    deadline: float | None = None
    due_ms: int | None = None
    undo_of: Step | None = None
    output: Payload | None = None
    child: str = ""
    asked: int | None = None
    traceparent: str = ""


class Step:
    """A planned step.

    Attributes:
        losses: Attempts whose host was lost, in all.
        lost_on: Services of the hosts that it lost in a row; no attempt of it has ended since.
        outcome: Kept only until its release was performed.
        row: The journal row that planned it; nobody may execute it before that is committed.
        timer_ms: The `retry_at_ms` for which a timer is armed.
        admitted: It counts as executing in the groups with a limit around it.
        waits_for_group: It waits for such a group.
    """

    __slots__ = (
        "admitted",
        "attempt",
        "fence",
        "input",
        "kind",
        "lease",
        "losses",
        "lost_on",
        "name",
        "order",
        "outcome",
        "particulars",
        "path",
        "planned_ms",
        "produced_by",
        "queued",
        "released",
        "retry",
        "retry_at_ms",
        "row",
        "run",
        "scope",
        "state",
        "timeout",
        "timer_ms",
        "uncertain",
        "waits_for_group",
    )

    def __init__(
        self,
        run: Run,
        path: str,
        kind: StepKind,
        scope: Scope,
        order: int,
        planned_ms: int,
        name: str,
        input_: Payload | None,
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> None:
        self.run = run
        self.path = path
        self.kind = kind
        self.scope = scope
        self.order = order
        self.name = name
        self.input = input_
        self.retry = retry
        self.timeout = timeout
        self.planned_ms = planned_ms
        self.particulars: Particulars | None = None
        self.attempt = 1
        self.state = StepState.PENDING
        self.retry_at_ms: int | None = None
        self.losses = 0
        self.lost_on: tuple[str, ...] = ()
        self.released = False
        self.outcome: AttemptEnded | None = None
        # Volatile.
        self.lease: Lease | None = None
        self.fence: Fence | None = None
        self.queued = False
        self.produced_by: Fence | None = None
        self.uncertain = False
        self.row = run.seq + 1
        self.timer_ms: int | None = None
        self.admitted = False
        self.waits_for_group = False

    @property
    def spec(self) -> StepSpec | None:
        return None if self.particulars is None else self.particulars.spec

    @property
    def due_ms(self) -> int | None:
        return None if self.particulars is None else self.particulars.due_ms

    @property
    def undo_of(self) -> Step | None:
        return None if self.particulars is None else self.particulars.undo_of

    @property
    def traceparent(self) -> str:
        """Where what it causes belongs: to its span, or that of the step it undoes; without one to the run."""
        particulars = self.particulars
        if particulars is None:
            return self.run.traceparent
        if particulars.undo_of is not None:
            return particulars.undo_of.traceparent
        return particulars.traceparent or self.run.traceparent


class Scope:
    """The root of a run (`group` None) or one branch of a group, with everything planned directly in it.

    Attributes:
        limits: The groups with a limit that this scope is in, outermost first.
    """

    __slots__ = (
        "busy",
        "depth",
        "ended",
        "group",
        "groups",
        "index",
        "limits",
        "open_groups",
        "outstanding",
        "path",
        "steps",
    )

    def __init__(self, path: str, group: Group | None, index: int, depth: int, limits: tuple[Group, ...] = ()) -> None:
        self.path = path
        self.group = group
        self.index = index
        self.depth = depth
        self.limits = limits
        # Lists only where something is planned: a wide group has as many scopes as branches.
        self.steps: list[Step] | None = None
        self.groups: list[Group] | None = None
        self.outstanding = 0
        self.open_groups = 0
        self.ended = False
        self.busy = True


class Group:
    """A group of branches.

    Attributes:
        finished: Committed outcomes that wait for their wave to close.
        expired: Its deadline passed, and its body is told.
        closing: Its deadline passed; the last wave is on its way. Volatile.
        close_by: When that wave is not waited for any more, on the monotonic clock; 0: that is not committed. Volatile.
        executing: Attempts in it that count against its limit. Volatile, as `waiting`.
        waiting: Heap of the steps that wait for a place within the limit, by their order of planning.
    """

    __slots__ = (
        "branches",
        "busy",
        "close_by",
        "closing",
        "dirty",
        "ended",
        "ended_branches",
        "executing",
        "expired",
        "finished",
        "opened",
        "opened_ms",
        "path",
        "run",
        "scope",
        "unfinished",
        "waiting",
    )

    released: ClassVar[bool] = False
    """It may be released beside steps, and nobody lets it go before."""

    def __init__(self, run: Run, opened: GroupOpened, scope: Scope, opened_ms: int) -> None:
        self.run = run
        self.opened = opened
        self.path = opened.path
        self.scope = scope
        self.opened_ms = opened_ms
        self.expired = False
        self.closing = False
        self.close_by = 0.0
        self.executing = 0
        self.waiting: list[tuple[int, Step]] = []
        self.branches: list[Scope] = []
        self.ended_branches: list[tuple[int, BranchOutcome]] = []
        self.ended: GroupEnded | None = None
        self.busy = opened.branches
        self.unfinished = 0
        self.finished: list[Step] = []
        self.dirty = False


class Body:
    """The live body of a run, as far as the engine knows.

    Attributes:
        session_id: Who holds it.
        fence: Its right to plan.
        ready: False while its snapshot is being read; nothing else is sent for it until then.
        last_release: Last release sent with or after the snapshot.
        hold: It starts no closure by itself until a plan of it is committed.
    """

    __slots__ = ("fence", "hold", "last_release", "ready", "session_id")

    def __init__(self, session_id: str, fence: Fence) -> None:
        self.session_id = session_id
        self.fence = fence
        self.ready = False
        self.last_release = 0
        self.hold = False


class Run:
    """One run. Everything above `# Volatile` is the fold of its journal.

    Attributes:
        plan_fence: Of the last plan. A body with a lower one was superseded by what is in the journal.
        answered: The last release that the body's last plan knew.
        moved: When its last commit was done, on the monotonic clock.
        look_at: When to see whether it may become dormant.
        asleep: It was dormant, or a host gave its body back that waits: the body has nothing to do yet.
        resting: Its record says that it is dormant.
        waking: It was dormant, and that it no longer is, is not on record: nobody would adopt what hosts get of it.
        stop_due: When its compensation begins whether or not its attempts have stopped, on the monotonic clock.
        broken: It has left memory.
        gone: Nobody reads its journal for it any more: it is dormant, or was read again as another Run.
    """

    __slots__ = (
        "answered",
        "asleep",
        "awaited",
        "body",
        "body_ended",
        "body_losses",
        "body_wanted",
        "broken",
        "cancelled_leases",
        "committed_seq",
        "completed",
        "created_at_ms",
        "deadline",
        "dirty",
        "flow",
        "fresh",
        "gone",
        "groups",
        "id",
        "in_flight",
        "input",
        "leased",
        "let_go",
        "look_at",
        "moved",
        "number",
        "open",
        "parent",
        "phase",
        "plan_fence",
        "plan_row",
        "plan_seq",
        "quarantine",
        "recorded",
        "release_seq",
        "resting",
        "run_id",
        "scopes",
        "seed",
        "seq",
        "state",
        "stats",
        "steps",
        "stop_due",
        "stop_waits",
        "stopping",
        "traceparent",
        "uncertain",
        "undo_on_cancel",
        "undone",
        "undos",
        "waking",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.run_id = ""
        self.flow = ""
        self.input: Payload = NULL
        self.id = ""
        self.seed = 0
        self.created_at_ms = 0
        self.parent: ParentStep | None = None
        self.deadline: float | None = None
        self.undo_on_cancel = False
        self.traceparent = ""
        self.state = RunState.PENDING
        self.phase = RunPhase.BODY
        self.stopping: RunStopping | None = None
        self.completed: list[Step] = []
        """Steps with an undo that succeeded, in order of completion."""
        self.undos: list[Step] = []
        self.undone = 0
        self.plan_seq = 0
        self.plan_fence: Fence | None = None
        self.release_seq = self.answered = 0
        self.stats = RunStats()
        self.body_losses = 0
        self.steps: dict[str, Step] = {}
        self.open: dict[str, Step] = {}
        """Steps without an outcome, in order of planning."""
        self.scopes: dict[str, Scope] = {"": Scope("", None, 0, 0)}
        self.groups: dict[str, Group] = {}
        self.body_ended: BodyEnded | None = None
        # Volatile.
        self.recorded: RunState | None = None
        self.seq = self.committed_seq = 0
        self.plan_row = 0
        self.in_flight = 0
        self.broken = self.gone = False
        self.quarantine: Failure | None = None
        self.uncertain = False
        self.awaited: set[str] = set()
        self.body: Body | None = None
        self.body_wanted = False
        self.leased = 0
        self.moved = 0.0
        self.look_at: float | None = None
        self.asleep = self.resting = self.waking = False
        self.stop_waits = False
        self.stop_due: float | None = None
        self.fresh: list[Step | Group] = []
        self.dirty: list[Group] = []
        self.cancelled_leases: list[tuple[Lease, CancelReason]] = []
        self.let_go: list[Step] = []
        """Steps that nobody waits for any more since the last look."""

    @property
    def deadline_ms(self) -> int | None:
        """When the run must have ended, by the engine's clock."""
        return None if self.deadline is None else self.created_at_ms + round(self.deadline * 1000)

    @property
    def compensates(self) -> bool:
        """Its compensation has begun, and that is durable."""
        return bool(self.undos) and self.undos[0].row <= self.committed_seq

    def dissolve(self) -> None:
        """It has left memory for good: its steps, branches and groups, which know each other, are let go.

        Without this the garbage collector would have to find them, for a tenth of all processor time.
        """
        for scope in self.scopes.values():
            scope.steps = scope.groups = None
        for group in self.groups.values():
            group.branches = []
            group.finished = []
            group.waiting = []
        for parts in (self.steps, self.open, self.scopes, self.groups):
            parts.clear()
        for waiting in (self.completed, self.undos, self.fresh, self.let_go, self.dirty, self.cancelled_leases):
            waiting.clear()

    def open_steps(self) -> list[Step]:
        """Steps without an outcome at this moment, in order of planning."""
        return list(self.open.values())

    def first_open(self) -> Step | None:
        """The one of them that was planned first."""
        return next(iter(self.open.values()), None)


def durable_view(run: Run) -> dict[str, object]:
    """Everything of a run that its journal must reproduce: `rebuild(journal) == live state` compares two of these."""
    return {
        "run": (run.number, run.run_id, run.flow, run.input, run.id, run.seed, run.created_at_ms),
        "options": (run.parent, run.deadline, run.undo_on_cancel, run.traceparent),
        "end": (run.phase, run.stopping, [s.path for s in run.completed], [s.path for s in run.undos]),
        "state": run.state,
        "seqs": (run.seq, run.plan_seq, run.release_seq),
        "counts": (run.stats.host_starts, run.stats.plans, run.stats.releases, run.body_losses),
        "body_ended": run.body_ended,
        "steps": {
            s.path: (s.kind, s.name, s.order, s.scope.path, s.attempt, s.state, s.retry_at_ms, s.losses, s.released)
            for s in run.steps.values()
        },
        "lost_on": {s.path: s.lost_on for s in run.steps.values() if s.lost_on},
        "traces": {s.path: s.traceparent for s in run.steps.values() if s.traceparent},
        "scopes": {s.path: (s.outstanding, s.open_groups, s.ended, s.busy) for s in run.scopes.values()},
        "groups": {
            path: (
                (g.opened, g.opened_ms, g.ended_branches, g.ended, g.expired),
                (g.busy, g.unfinished, sorted(s.path for s in g.finished)),
            )
            for path, g in run.groups.items()
        },
    }
