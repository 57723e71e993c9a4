"""How a run ends: by its body, by a deadline, by cancellation; and what is compensated first (MISSION S8, S20, O9).

A run that will not end well is *stopping*: its body decides nothing more, everything open is cancelled, the
attempts in progress get a while to stop, then completed steps are undone one after the other, the last one
first. The terminal state comes with the commit that ends the last undo.
"""

from __future__ import annotations

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BodyEnded, StepKind
from stepwire_engine.core import causes
from stepwire_engine.core.entries import AttemptEnded, RunEnded, RunState, RunStopping, UndoPlanned
from stepwire_engine.core.model import Run, RunPhase, Step
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import ChildEnded, StartRun


def end_body(turn: Turn, ended: BodyEnded) -> None:
    """The body said how it ended."""
    run = turn.run
    if ended.cancelled:
        stop(turn, RunState.CANCELLED, undo=run.undo_on_cancel)
    elif ended.restart is not None:
        _restart(turn, ended.restart)
    elif ended.failure is None:
        _end(turn, RunState.SUCCEEDED)
    elif run.completed:
        stop(turn, RunState.FAILED, undo=True)
    else:
        _end(turn, RunState.FAILED)


def stop(turn: Turn, state: RunState, *, undo: bool, failure: Failure | None = None) -> None:
    """Nothing more is decided by the body; the run will end in `state`.

    Args:
        undo: Completed steps are compensated before.
        failure: Why, if it is not the body's own.
    """
    turn.emit(RunStopping(state, turn.unix_ms, undo, failure))
    turn.run.stop_waits = turn.run.leased > 0
    turn.stopping = True


def stop_again(turn: Turn) -> None:
    """The engine was restarted, or has read the run again, while its attempts had to stop: wait for those that hosts
    still have."""
    turn.run.stop_waits = turn.run.leased > 0
    turn.stopping = True


def stop_waiting(turn: Turn) -> None:
    """The time that the attempts had to stop is over."""
    turn.run.stop_waits = False


def expire(turn: Turn) -> None:
    """The deadline of the run passed."""
    run = turn.run
    if run.stopping is None and run.body_ended is None:
        message = f"run {run.run_id} was not finished within the deadline of flow {run.flow!r}, {run.deadline:g} s"
        failure = Failure(ErrorCode.RUN_TIMEOUT, "RunTimeout", message, retryable=Retryable.NO)
        stop(turn, RunState.FAILED, undo=True, failure=failure)


def go_on(turn: Turn) -> None:
    """Do what a stopping run has to do next; call it whenever something of it changed."""
    run = turn.run
    assert run.stopping is not None
    if run.phase is RunPhase.CANCELLING:
        if not (run.stopping.undo and run.completed):
            _end(turn, run.stopping.state)
            return
        if run.uncertain or (run.leased and run.stop_waits):
            return  # Its attempts may still change what an undo changes.
        turn.emit(UndoPlanned(tuple([step.path for step in reversed(run.completed)]), turn.unix_ms))
        turn.undoing = True
    undo = present_undo(run)
    if undo is None:
        _end(turn, run.stopping.state)
    else:
        turn.planned.append(undo)


def present_undo(run: Run) -> Step | None:
    """The one compensation that may be executed now; None if all are over."""
    undos = run.undos
    while run.undone < len(undos) and undos[run.undone].state.final:
        run.undone += 1
    return undos[run.undone] if run.undone < len(undos) else None


def give_up_closures(turn: Turn, why: Failure) -> None:
    """The body cannot be replayed any more: undos that are its closures will never be reached (MISSION S8)."""
    for undo in turn.run.undos:
        if undo.kind is StepKind.RUN and not undo.state.final:
            assert undo.undo_of is not None
            message = f"the compensation of step {undo.undo_of.path!r} is a closure that cannot be reached any more"
            failure = Failure(ErrorCode.UNDO_UNREACHABLE, "UndoUnreachable", message, retryable=Retryable.NO, cause=why)
            turn.emit(AttemptEnded(undo.path, undo.attempt, turn.unix_ms, 0.0, "", None, failure))


def failure_of(run: Run) -> Failure | None:
    """Why the run is stopping or has failed; None if it was cancelled or has no failure."""
    if run.stopping is not None and run.stopping.failure is not None:
        return run.stopping.failure
    if run.stopping is not None and run.stopping.state is RunState.CANCELLED:
        return None
    return None if run.body_ended is None else run.body_ended.failure


def _restart(turn: Turn, payload: Payload) -> None:
    """End the run and start its successor in one commit (`ctx.restart_with`)."""
    run = turn.run
    successor = causes.successor_run_id(run.run_id)
    turn.facts.append((0, StartRun(successor, run.flow, payload, parent=run.parent, traceparent=run.traceparent)))
    _end(turn, RunState.SUCCEEDED, successor)


def _end(turn: Turn, state: RunState, successor: str = "") -> None:
    run = turn.run
    failure = None if run.stopping is None else run.stopping.failure
    ended = RunEnded(state, turn.unix_ms, run.stats, failure, successor)
    for step in run.open_steps():
        if not step.released:
            turn.let_go.append(step)
    turn.emit(ended)
    turn.ended = ended
    turn.frees_key = state is RunState.CANCELLED and bool(run.id)
    if run.parent is not None and not successor:
        # A successor keeps the parent: the last of the line answers it.
        turn.facts.append((run.parent.run, _child_ended(run, state)))


def _child_ended(run: Run, state: RunState) -> ChildEnded:
    parent = run.parent
    assert parent is not None
    if state is RunState.SUCCEEDED:
        output = NULL if run.body_ended is None else run.body_ended.output
        return ChildEnded(parent.path, parent.attempt, output or NULL)
    failure = failure_of(run)
    if state is RunState.CANCELLED or failure is None:
        message = f"run {run.run_id} of flow {run.flow!r} was cancelled"
        failure = Failure(ErrorCode.CHILD_CANCELLED, "ChildCancelled", message, retryable=Retryable.NO)
    return ChildEnded(parent.path, parent.attempt, None, failure)
