"""A run in memory: the value that journal entries fold into, and what hosts hold of it at the moment.

The durable part changes only in `fold.py`. The volatile part (leases, the live body) is never journaled;
it follows from dispatching and is rebuilt by resume and re-dispatch. This module decides nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BodyEnded, BranchOutcome, Fence, GroupEnded, GroupOpened, RetryPolicy, StepKind
from stepwire_engine.core.entries import AttemptEnded, RunState, RunStats


class StepState(enum.IntEnum):
    """Durable states of a step. Whether a PENDING step executes is a matter of its lease."""

    PENDING = 1
    BACKOFF = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

    @property
    def final(self) -> bool:
        return self >= StepState.SUCCEEDED


class Lease:
    """A session's right to one attempt.

    Attributes:
        frame: The engine frame that carried its Execute, or its Cancel if the host began it by itself; 0: none did.
            A Report that answers a later frame and does not list the attempt says that the host does not have it.
        cancelled: Why the host was told to stop it; None: it was not.
        beside: The live body that the same host had before it got this attempt; it keeps the output for it.
    """

    __slots__ = ("attempt", "beside", "cancelled", "fence", "frame", "session_id", "since", "step")

    def __init__(self, step: Step, session_id: str, fence: Fence, since: float) -> None:
        self.step = step
        self.session_id = session_id
        self.attempt = step.attempt
        self.fence = fence
        self.since = since
        self.frame = 0
        self.cancelled: CancelReason | None = None
        self.beside: Fence | None = None


class Step:
    """A planned step.

    Attributes:
        outcome: Kept only until its release was performed.
        row: The journal row that planned it; nobody may execute it before that is committed.
        timer_ms: The `retry_at_ms` for which a timer is armed.
    """

    __slots__ = (
        "attempt",
        "fence",
        "input",
        "kind",
        "lease",
        "losses",
        "name",
        "order",
        "outcome",
        "path",
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
    )

    def __init__(self, run: Run, path: str, kind: StepKind, scope: Scope, order: int) -> None:
        self.run = run
        self.path = path
        self.kind = kind
        self.scope = scope
        self.order = order
        self.name = ""
        self.input: Payload | None = None
        self.retry: RetryPolicy | None = None
        self.timeout: float | None = None
        self.attempt = 1
        self.state = StepState.PENDING
        self.retry_at_ms: int | None = None
        self.losses = 0
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


class Scope:
    """The root of a run (`group` None) or one branch of a group, with everything planned directly in it."""

    __slots__ = ("busy", "depth", "ended", "group", "groups", "index", "open_groups", "outstanding", "path", "steps")

    def __init__(self, path: str, group: Group | None, index: int, depth: int) -> None:
        self.path = path
        self.group = group
        self.index = index
        self.depth = depth
        # Lists only where something is planned: a wide group has as many scopes as branches.
        self.steps: list[Step] | None = None
        self.groups: list[Group] | None = None
        self.outstanding = 0
        self.open_groups = 0
        self.ended = False
        self.busy = True


class Group:
    """A group of branches. `finished` holds committed outcomes that wait for their wave to close."""

    __slots__ = ("branches", "busy", "dirty", "ended", "ended_branches", "finished", "opened", "scope", "unfinished")

    def __init__(self, opened: GroupOpened, scope: Scope) -> None:
        self.opened = opened
        self.scope = scope
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
    """One run. Everything above `# Volatile` is the fold of its journal."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.run_id = ""
        self.flow = ""
        self.input: Payload = NULL
        self.id = ""
        self.seed = 0
        self.created_at_ms = 0
        self.state = RunState.PENDING
        self.plan_seq = 0
        self.release_seq = 0
        self.stats = RunStats()
        self.body_losses = 0
        self.steps: dict[str, Step] = {}
        self.scopes: dict[str, Scope] = {"": Scope("", None, 0, 0)}
        self.groups: dict[str, Group] = {}
        self.body_ended: BodyEnded | None = None
        # Volatile.
        self.recorded: RunState | None = None
        self.seq = 0
        self.committed_seq = 0
        self.plan_row = 0
        self.in_flight = 0
        self.broken = False
        self.quarantine: Failure | None = None
        self.uncertain = False
        self.awaited: set[str] = set()
        self.body: Body | None = None
        self.body_wanted = False
        self.fresh: list[Step] = []
        self.dirty: list[Group] = []
        self.cancelled_leases: list[tuple[Lease, CancelReason]] = []

    def open_steps(self) -> Iterator[Step]:
        """Steps without an outcome, in order of planning."""
        return (step for step in self.steps.values() if not step.state.final)


def durable_view(run: Run) -> dict[str, object]:
    """Everything of a run that its journal must reproduce: `rebuild(journal) == live state` compares two of these."""
    return {
        "run": (run.number, run.run_id, run.flow, run.input, run.id, run.seed, run.created_at_ms),
        "state": run.state,
        "seqs": (run.seq, run.plan_seq, run.release_seq),
        "counts": (run.stats.host_starts, run.stats.plans, run.stats.releases, run.body_losses),
        "body_ended": run.body_ended,
        "steps": {
            s.path: (s.kind, s.name, s.order, s.scope.path, s.attempt, s.state, s.retry_at_ms, s.losses, s.released)
            for s in run.steps.values()
        },
        "scopes": {s.path: (s.outstanding, s.open_groups, s.ended, s.busy) for s in run.scopes.values()},
        "groups": {
            path: (g.opened, g.ended_branches, g.ended, g.busy, g.unfinished, sorted(s.path for s in g.finished))
            for path, g in run.groups.items()
        },
    }
