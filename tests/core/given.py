"""`given(plan).when(events).then(releases)`: one run driven through the run machine alone, one turn per `when`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    Fence,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    RetryPolicy,
    StepPlanned,
)
from stepwire.protocol.verdict import group_verdict
from stepwire_engine.core import machine
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Entry, Released, RunCreated
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run, durable_view
from stepwire_engine.core.plan_check import refusal
from stepwire_engine.core.settle import settle
from stepwire_engine.core.turn import Turn

T0 = 1_700_000_000_000
FENCE = Fence(1, 1)
ONCE = RetryPolicy(max_attempts=1)
Event = Callable[["Given", Turn], None]

_ROW = tuple[Entry, ...]


def step(path: str, **how: object) -> StepPlanned:
    return StepPlanned(path, **how)  # type: ignore[arg-type]


def group(path: str, branches: int, mode: ParallelMode = ParallelMode.WAIT, **how: object) -> GroupOpened:
    return GroupOpened(path, branches, mode, **how)  # type: ignore[arg-type]


def race(path: str, branches: int) -> GroupOpened:
    """What `ctx.group.race` opens: the first success ends it."""
    return GroupOpened(path, branches, ParallelMode.RACE, FailPolicy.ALL, cancel_siblings=True)


# ---- events


def plan(
    *steps: str | StepPlanned,
    groups: tuple[GroupOpened, ...] = (),
    abandoned: tuple[str, ...] = (),
    ended: tuple[str | BranchEnded, ...] = (),
    groups_ended: tuple[str | GroupEnded, ...] = (),
    body_ended: BodyEnded | None = None,
) -> Event:
    """The body's next Plan. Ends of groups given by path are computed from their branches."""

    def event(given: Given, turn: Turn) -> None:
        run = given.run
        branches = tuple(b if isinstance(b, BranchEnded) else BranchEnded(b, BranchOutcome.OK) for b in ended)
        made = Plan(
            run.plan_seq + 1,
            run.release_seq,
            FENCE,
            groups,
            tuple(s if isinstance(s, StepPlanned) else StepPlanned(s) for s in steps),
            abandoned,
            branches,
            tuple(g if isinstance(g, GroupEnded) else given.verdict(g, groups, branches) for g in groups_ended),
            body_ended,
        )
        refused = refusal(run, made, given.config)
        assert refused is None, refused
        machine.accept_plan(turn, made, "host")

    return event


def ok(path: str, data: bytes = b"1") -> Event:
    return lambda given, turn: given.result(turn, path, Payload(data), None)


def failed(path: str, retryable: Retryable = Retryable.POLICY, retry_after: float | None = None) -> Event:
    failure = Failure(ErrorCode.USER_ERROR, "ValueError", "no", retryable=retryable, retry_after=retry_after)
    return lambda given, turn: given.result(turn, path, None, failure)


def lost(path: str) -> Event:
    return lambda given, turn: machine.lose_attempt(turn, given.run.steps[path], "host", given.config)


def body_lost() -> Event:
    return lambda given, turn: machine.lose_body(turn, given.config)


def paused(message: str = "look at this") -> Event:
    failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", message)
    return lambda given, turn: machine.pause(turn, failure)


def resumed() -> Event:
    return lambda given, turn: machine.resume(turn)


class Given:
    """A run, its rows, and what the last turn decided."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.run = Run(1)
        self.ms = T0
        self.rows: list[_ROW] = []
        self.turn = self._turn(lambda _, turn: machine.create(turn, RunCreated("r", "flow", Payload(b"{}"), 7, T0)))

    def _turn(self, *events: Event) -> Turn:
        turn = Turn(self.run, self.ms)
        for event in events:
            event(self, turn)
        settle(turn)
        if turn.entries:
            self.rows.append(tuple(turn.entries))
            self.run.seq += 1
            self.run.committed_seq += 1
        return turn

    def when(self, *events: Event, after_ms: int = 1) -> Given:
        """One frame's events: one turn, one row."""
        self.ms += after_ms
        self.turn = self._turn(*events)
        return self

    def then(self, *paths: str) -> Given:
        """The last turn released exactly these outcomes, in this order; none: it released nothing."""
        found = self.turn.released.paths if self.turn.released is not None else ()
        assert found == paths, f"released {found}, expected {paths}"
        return self

    @property
    def kinds(self) -> list[str]:
        """Names of the last turn's entries."""
        return [type(e).__name__ for e in self.turn.entries]

    @property
    def releases(self) -> list[tuple[str, ...]]:
        return [e.paths for row in self.rows for e in row if isinstance(e, Released)]

    def result(self, turn: Turn, path: str, output: Payload | None, failure: Failure | None) -> None:
        found = self.run.steps[path]
        assert not found.state.final, f"{path} has an outcome already"
        result = Result(path, found.attempt, FENCE, output, failure, 0.5)
        machine.accept_result(turn, found, result, "host", self.config)

    def verdict(self, path: str, opened: tuple[GroupOpened, ...], ended: tuple[BranchEnded, ...]) -> GroupEnded:
        known = self.run.groups.get(path)
        spec = known.opened if known is not None else next(g for g in opened if g.path == path)
        branches = list(known.ended_branches) if known is not None else []
        branches += [(int(b.path[len(path) + 2 : -1]), b.outcome) for b in ended if b.path.rpartition("/")[0] == path]
        found = group_verdict(spec, branches)
        assert found is not None, f"{path} has not ended"
        return found

    def assert_rebuilt(self) -> None:
        """LAW: the state is a fold of the journal, also of one that was bytes in between."""
        packed = msgspec.msgpack.encode(self.rows)
        rows = msgspec.msgpack.decode(packed, type=list[_ROW])
        assert rows == self.rows
        assert durable_view(rebuild(1, rows)) == durable_view(self.run)


def given(*events: Event, config: CoreConfig | None = None) -> Given:
    """A created run; with events they are its first turn after creation."""
    scene = Given(config or CoreConfig(default_retry=ONCE))
    return scene.when(*events) if events else scene
