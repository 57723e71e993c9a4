"""A run driven by the real machine, row by row, and what its record shows: for tests of records and reasons."""

from __future__ import annotations

from collections.abc import Sequence

from stepwire.protocol.bounds import SPEC_OF
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Hello, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    Fence,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    StepKind,
    StepPlanned,
    StepSpec,
)
from stepwire_engine.core import deadlines, ending, machine
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Entry, ParentStep, RunCreated, RunState
from stepwire_engine.core.history import RunView, StepView, live_view, run_view
from stepwire_engine.core.model import Lease, Run
from stepwire_engine.core.reasons import WaitReason, Wanted
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.settle import settle
from stepwire_engine.core.turn import Turn

FENCE = Fence(1, 1)
BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...")
STUCK = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "expected a, got b")
IN_RACE = GroupOpened("race", 2, ParallelMode.RACE)
IN_WAIT = GroupOpened("parallel", 2, ParallelMode.WAIT)


class Story:
    """A run driven by the real machine, one row per call; time goes on by a second per row."""

    def __init__(self, parent: ParentStep | None = None, deadline: float | None = None) -> None:
        self.run = Run(7)
        self.rows: list[tuple[Entry, ...]] = []
        self.ms = 1_000_000
        self.served = {("flow", "orders"), ("step", "charge")}
        self.session = Session("s1", Hello("shop", "i1"), 0.0, [])
        turn = self._turn()
        created = RunCreated("r1", "orders", Payload(b"17"), 5, self.ms, "order-17", parent, deadline)
        machine.create(turn, created)
        self._commit(turn)

    def plan(
        self,
        *steps: StepPlanned,
        groups: Sequence[GroupOpened] = (),
        branches: Sequence[BranchEnded] = (),
        ended: Sequence[GroupEnded] = (),
        abandoned: Sequence[str] = (),
        end: BodyEnded | None = None,
    ) -> None:
        run, turn = self.run, self._turn()
        plan = Plan(
            run.plan_seq + 1,
            run.release_seq,
            FENCE,
            tuple(groups),
            steps,
            tuple(abandoned),
            tuple(branches),
            tuple(ended),
            end,
        )
        machine.accept_plan(turn, plan, "shop")
        settle(turn)
        self._commit(turn)

    def result(self, path: str, *, output: bytes = b"1", failure: Failure | None = None, elapsed: float = 0.5) -> None:
        turn, step = self._turn(), self.run.steps[path]
        payload = None if failure is not None else Payload(output)
        result = Result(path, step.attempt, FENCE, payload, failure, elapsed)
        machine.accept_result(turn, step, result, "shop", CoreConfig())
        settle(turn)
        self._commit(turn)

    def lose(self, path: str) -> None:
        turn = self._turn()
        machine.lose_attempt(turn, self.run.steps[path], "shop", CoreConfig())
        self._commit(turn)

    def pause(self) -> None:
        turn = self._turn()
        machine.pause(turn, STUCK)
        self._commit(turn)

    def resume(self) -> None:
        turn = self._turn()
        machine.resume(turn)
        self._commit(turn)

    def cancel(self, *, undo: bool = False) -> None:
        turn = self._turn()
        ending.stop(turn, RunState.CANCELLED, undo=undo)
        settle(turn)
        self._commit(turn)

    def expire(self, what: str = "") -> None:
        """The deadline of a group or step passes; without `what` the run's."""
        turn = self._turn()
        if not what:
            ending.expire(turn)
        elif what in self.run.groups:
            deadlines.expire_group(turn, self.run.groups[what])
        else:
            deadlines.expire_steps(turn, [self.run.steps[what]])
        settle(turn)
        self._commit(turn)

    def stopped(self, path: str) -> None:
        """The attempt has stopped, after its run was told to."""
        lease = self.run.steps[path].lease
        assert lease is not None
        self.session.drop(lease)
        turn = self._turn()
        settle(turn)
        self._commit(turn)

    def lease(self, path: str) -> Lease:
        lease = Lease(self.run.steps[path], "s1", FENCE, 0.0, 1)
        self.session.hold(lease)
        return lease

    def enter(self) -> None:
        self.session.take_body(self.run, FENCE).ready = True

    def view(
        self,
        *,
        steps: bool = True,
        live: bool = True,
        rows: Sequence[tuple[Entry, ...]] | None = None,
        waiting: bool = False,
    ) -> RunView:
        return run_view(
            7,
            rows or self.rows,
            live=self.run if live else None,
            now_unix_ms=self.ms,
            include_steps=steps,
            waiting=waiting,
            lacks=self._lacks,
        )

    def in_memory(self) -> RunView | None:
        return live_view(self.run, now_unix_ms=self.ms, lacks=self._lacks)

    def _lacks(self, wanted: Wanted, name: str) -> WaitReason:
        kind = {Wanted.BODY: "flow", Wanted.SLOT: "step"}.get(wanted)
        return WaitReason.NO_SLOT if kind is None or (kind, name) in self.served else WaitReason.NO_HOST

    def step(self, path: str, *, live: bool = True) -> StepView:
        return next(step for step in self.view(live=live).steps if step.path == path)

    def _turn(self) -> Turn:
        self.ms += 1000
        return Turn(self.run, self.ms)

    def _commit(self, turn: Turn) -> None:
        self.rows.append(tuple(turn.entries))
        self.run.seq += 1
        self.run.committed_seq += 1


_KINDS: dict[type[StepSpec], StepKind] = {kind: number for number, kind in SPEC_OF.items()}


def performed(path: str, spec: StepSpec) -> StepPlanned:
    """A step that the engine performs."""
    return StepPlanned(path, _KINDS[type(spec)], spec=spec)


def named(*paths: str) -> list[StepPlanned]:
    return [StepPlanned(path) for path in paths]
