"""Steps that the core performs itself, and what other runs and events cause: sleeps, waits, events, children.

None of them has a lease or holds a slot. What one run causes in another goes through the inbox: the cause's
commit writes a fact, the other run's commit consumes it, so that it happens once, whatever crashes. This module says
what a step of such a kind does; who is told is `delivery.py`, by whom `inbox.py`, and where a run waits `dormancy.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Hello
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Invoke, SendEvent, Sleep, StepKind, WaitEvent
from stepwire_engine.core import causes, children, ending
from stepwire_engine.core.books import Books, Commit, Reply, earliest
from stepwire_engine.core.deadlines import goes_on_ms
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.delivery import Delivery, was_waited_for
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.dormancy import Dormancy
from stepwire_engine.core.entries import AttemptEnded, Entry, RunState
from stepwire_engine.core.events import EVENT_AHEAD_MS_MAX, event_output, failed_event, ids_of, sent_by_step, started_by
from stepwire_engine.core.inbox import Inbox
from stepwire_engine.core.lookback import LookBack
from stepwire_engine.core.model import PERFORMED, Run, Step, StepState
from stepwire_engine.core.reads import (
    DormantRun,
    DormantRuns,
    OpenWaits,
    PastEvents,
    Read,
    RunRecords,
    UndeliveredEvents,
    UndoOutputs,
)
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import (
    CancelRun,
    ChildEnded,
    EventMatched,
    EventRecord,
    Fact,
    InboxRow,
    Receipt,
    RunRecord,
    StartRun,
    Unit,
    WaitRow,
)

NOT_COMMITTED = -1


class Performed:
    """What happens without a host.

    Args:
        cancel: Cancels a run in memory for a client: token, run id, and whether it is compensated.

    Attributes:
        looks_back: Whether past events are being read for a step.
        waking: What stands for dormant runs that are being read.
        wake_if_forgotten: Wakes a run that nothing in the store would wake, unless memory knows better.
    """

    def __init__(
        self,
        books: Books,
        dispatcher: Dispatcher,
        decisions: Decisions,
        cancel: Callable[[object, str, bool | None], None],
    ) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._decisions = decisions
        self._dormancy = Dormancy(books, dispatcher, decisions)
        self._dormancy.cancel = cancel
        self._inbox = Inbox(books, decisions, self._apply, self._wake)
        self._dormancy.concerns = self._inbox.concerns
        self.wake_if_forgotten = self._dormancy.wake_if_forgotten
        self._delivery = Delivery(books, lambda: self._inbox.backlog)
        self._look_back = LookBack(books, self._delivery, self._take, self.due)
        self._dormancy.busy = self._look_back.busy
        self.looks_back = self._look_back.__contains__
        self.waking = self._dormancy.waking

    # ---- flows

    def register(self, hello: Hello) -> None:
        """Take over what a host says about its flows; the newest registration counts."""
        self._books.known_flows.update(hello.flows)
        options = {o.flow: o for o in hello.flow_options}
        for flow in hello.flows:
            if flow in options:
                self._books.flow_options[flow] = options[flow]
            else:
                self._books.flow_options.pop(flow, None)
        self._delivery.flows_changed()

    def recover(self, inbox: Iterable[InboxRow]) -> None:
        """The engine starts: act on what an earlier one left behind."""
        self._delivery.flows_changed()
        self._inbox.take(inbox)
        self._delivery.look()
        self._dormancy.look()

    # ---- steps begin

    def begin(self, turn: Turn) -> None:
        """A plan has steps of ours (`turn.begun`)."""
        begun = turn.begun[:]
        turn.begun.clear()
        for step in begun:
            if step.state.final:
                continue  # The same plan gave it up.
            match step.spec:
                case Sleep():
                    self._begin_sleep(turn, step)
                case WaitEvent():
                    self._begin_wait(turn, step, step.spec)
                case SendEvent():
                    self._send(turn, step, step.spec)
                case Invoke():
                    self._invoke(turn, step, step.spec)

    def _begin_sleep(self, turn: Turn, step: Step) -> None:
        due_ms = goes_on_ms(step)
        if due_ms is None or due_ms <= turn.unix_ms:
            self._end(turn, step, NULL)

    def _begin_wait(self, turn: Turn, step: Step, spec: WaitEvent) -> None:
        if spec.timeout is not None and spec.timeout <= 0 and not spec.lookback:
            self._end(turn, step, NULL)
            return
        assert step.particulars is not None
        step.particulars.asked = NOT_COMMITTED
        turn.waits.append(WaitRow(turn.run.number, step.path, spec.event, spec.match))

    def _send(self, turn: Turn, step: Step, spec: SendEvent) -> None:
        events = sent_by_step(step, spec, turn.unix_ms)
        for event in events:
            if event.due_ms > turn.unix_ms + EVENT_AHEAD_MS_MAX:
                message = f"event {event.name!r} of step {step.path!r} is due in more than 366 days"
                failure = Failure(ErrorCode.INVALID_ARGUMENT, "InvalidArgument", message, retryable=Retryable.NO)
                self._end(turn, step, None, failure)
                return
        turn.events.extend(events)
        self._end(turn, step, ids_of(events))

    def _invoke(self, turn: Turn, step: Step, spec: Invoke) -> None:
        refused = children.refusal(self._books, step, spec)
        if refused is None:
            children.start(turn, step)
        else:
            self._end(turn, step, None, refused)

    def _end(
        self,
        turn: Turn,
        step: Step,
        output: Payload | None,
        failure: Failure | None = None,
        retry_at_ms: int | None = None,
    ) -> None:
        elapsed = max(0, turn.unix_ms - step.planned_ms) / 1000
        turn.emit(AttemptEnded(step.path, step.attempt, turn.unix_ms, elapsed, "", output, failure, retry_at_ms))
        if not step.state.final:
            turn.retries.append(step)
        elif step.kind is StepKind.WAIT_EVENT:
            turn.waits_done.append(step.path)

    # ---- steps and runs are over

    def complete(self, turn: Turn) -> None:
        """A turn let steps go or ended its run: add what that causes elsewhere to it."""
        turn.waits_done.extend([step.path for step in turn.let_go if step.kind is StepKind.WAIT_EVENT])
        children.cancel(turn, [step for step in turn.let_go if step.kind is StepKind.INVOKE])
        if turn.ended is not None and turn.ended.state is RunState.FAILED and self._is_told(turn.run):
            event = failed_event(turn.run, turn.unix_ms, self._books.config.payload_bytes_max)
            turn.events.append(event)

    def _is_told(self, run: Run) -> bool:
        """Whether some flow is started by failed runs, and this run was not started in that way itself."""
        name = causes.RUN_FAILED_EVENT
        return bool(self._delivery.triggers(name)) and not started_by(run, name)

    # ---- time

    def arm(self, step: Step) -> None:
        """The step's plan is committed, or its run is in memory again: wait for what ends it."""
        if step.state is StepState.BACKOFF:
            self._arm_child(step)
        else:
            match step.spec:
                case WaitEvent():
                    self._arm_wait(step, step.spec)
                case Invoke():
                    assert step.particulars is not None
                    step.particulars.child = children.run_id_of(step)
                case _:
                    self._arm_timer(step)
        self._dormancy.consider(step.run)

    def _arm_timer(self, step: Step) -> None:
        due_ms = goes_on_ms(step)
        assert step.particulars is not None
        step.particulars.due_ms = due_ms
        if due_ms is not None and step.timer_ms != due_ms:
            step.timer_ms = due_ms
            self._books.timers.arm(self._books.due_mono(due_ms), step)

    def _arm_child(self, step: Step) -> None:
        assert step.particulars is not None and step.retry_at_ms is not None
        if step.retry_at_ms > self._books.now.unix_ms:
            self._arm_timer(step)
        elif step.particulars.child != children.run_id_of(step):
            self._decisions.alone(step.run, lambda turn: children.start(turn, step))

    def _arm_wait(self, step: Step, spec: WaitEvent) -> None:
        assert step.particulars is not None
        if step.particulars.asked == NOT_COMMITTED:
            step.particulars.asked = self._delivery.last_number
        self._arm_timer(step)
        self._look_back.begin(step, spec)

    def due(self, step: Step) -> None:
        """Its time has come."""
        due_ms = goes_on_ms(step)
        if step.state.final or due_ms is None or step in self._look_back:
            return  # The answer about its look-back says what becomes of it.
        if due_ms > self._books.now.unix_ms:
            self._arm_timer(step)
        elif step.state is StepState.BACKOFF:
            self._dispatcher.enqueue(step)
        else:
            self._decisions.alone(step.run, lambda turn: self._end(turn, step, NULL))

    def next_due(self) -> float | None:
        """When `tick` has something to do, on the monotonic clock."""
        return earliest(self._inbox.next_due(), earliest(self._delivery.next_due(), self._dormancy.next_due()))

    def next_timer(self) -> float | None:
        """When something goes on by itself, on the monotonic clock; looking for runs to put to rest is not it."""
        return earliest(self._inbox.next_due(), earliest(self._delivery.next_due(), self._dormancy.next_wake()))

    def tick(self) -> None:
        """Time has passed."""
        self._inbox.tick()
        self._delivery.tick()
        self._dormancy.tick()

    # ---- facts

    def _apply(self, turn: Turn, fact: Fact) -> None:
        """What a fact does to its run; nothing if that has moved on."""
        match fact:
            case EventMatched():
                step = self._open(turn, fact.path, StepKind.WAIT_EVENT)
                if step is not None and was_waited_for(step, fact.due_ms):
                    self._end(turn, step, fact.output)
            case ChildEnded():
                step = self._open(turn, fact.path, StepKind.INVOKE)
                if step is not None and step.attempt == fact.attempt:
                    self._child_ended(turn, step, fact)
            case CancelRun():
                run = turn.run
                if run.stopping is None and run.body_ended is None:
                    undo = run.undo_on_cancel if fact.undo is None else fact.undo
                    ending.stop(turn, RunState.CANCELLED, undo=undo)
            case StartRun():
                pass  # It was started by the same cause before.

    def _open(self, turn: Turn, path: str, kind: StepKind) -> Step | None:
        step = turn.run.steps.get(path)
        return None if step is None or step.state.final or step.kind is not kind else step

    def _child_ended(self, turn: Turn, step: Step, fact: ChildEnded) -> None:
        if fact.failure is None:
            self._end(turn, step, fact.output or NULL)
        else:
            failure, delay = children.failure_and_delay(step, fact)
            self._end(turn, step, None, failure, None if delay is None else turn.unix_ms + round(delay * 1000))

    def stored(self, commit: Commit, receipt: Receipt) -> None:
        """Facts or events of a unit are durable, or facts were consumed."""
        unit = commit.unit
        if unit.inbox_done:
            self._inbox.consumed(unit.inbox_done)
        if unit.events:
            if commit.turn is None:
                known = not any(receipt.events)
                self._books.counters.events_received["duplicate" if known else "accepted"] += 1
                if known:
                    commit.replies = [msgspec.structs.replace(reply, existing=True) for reply in commit.replies]
            self._delivery.accepted(unit.events, receipt.events)
        if unit.inbox:
            numbered = zip(unit.inbox, receipt.inbox, strict=True)
            self._inbox.take([InboxRow(row.run, row.fact, number) for row, number in numbered])

    def failed(self, commit: Commit, receipt: Receipt) -> None:
        """A unit that was to consume facts was refused."""
        self._inbox.refused(commit.unit.inbox_done, receipt)

    def send(self, token: object, event: EventRecord) -> None:
        """Accept an event."""
        unit = Unit(self._books.claim_epoch, events=(event,), events_since_ms=self._books.events_since_ms)
        self._books.commits.append(Commit(unit, replies=[Reply(token, event_id=event.id)]))

    # ---- runs come and go

    def consider(self, run: Run) -> None:
        """Something of the run waits for its time: the run may be able to do so on disk."""
        self._dormancy.consider(run)

    def rested(self, turn: Turn) -> None:
        """The run is on record as dormant."""
        self._dormancy.rested(turn)

    def gone(self, run: Run) -> None:
        """The run ended, or never began."""
        self._inbox.release(run)

    def read_again(self, run: Run) -> None:
        """A run was read, and nothing of it is armed."""
        self._dormancy.read(run)

    def back(self, run: Run) -> None:
        """A run that was read again has everything armed."""
        facts = self._dormancy.awake(run)
        self._inbox.again(facts)
        self._inbox.release(run)
        for step in [step for step in run.open_steps() if step.kind in PERFORMED]:
            self._dispatcher.enqueue(step)
            due_ms = goes_on_ms(step)
            if due_ms is not None and due_ms <= self._books.now.unix_ms:
                self.due(step)
        self._dormancy.on_record(run)

    def over(self, run: Run) -> None:
        """A run was read, and has ended."""
        self._inbox.again(self._dormancy.over(run))
        self._inbox.release(run)

    def unreadable(self, run: Run) -> None:
        """The journal of a run cannot be read."""
        self._inbox.drop(self._dormancy.unreadable(run))
        self._inbox.unreadable(run)

    def cancel_dormant(self, token: object, run_id: str, undo: bool | None) -> None:
        """Cancel a run that is not in memory."""
        self._dormancy.wake_for_cancel(token, run_id, undo)

    def stir(self, run_id: str) -> None:
        """A host sent a plan of a run that is not in memory."""
        self._dormancy.stir(run_id)

    def _wake(self, record: RunRecord, fact: int) -> None:
        self._dormancy.wake(record).facts.append(fact)

    def _take(self, step: Step, event: EventRecord) -> None:
        output = event_output(event)
        self._decisions.alone(step.run, lambda turn: self._end(turn, step, output))

    # ---- answers

    def answer(self, read: Read, answer: Any) -> None:
        """The shell read something."""
        match read:
            case UndoOutputs():
                self._undo_outputs(read.run, answer)
            case RunRecords():
                self._inbox.records(read, answer)
            case OpenWaits():
                self._delivery.waits(read, answer)
            case PastEvents():
                self._look_back.answer(read, answer)
            case UndeliveredEvents():
                self._delivery.undelivered(read, answer)
            case DormantRuns():
                self._dormancy.due(read, answer)
            case DormantRun():
                self._dormancy.found(read, answer)

    def _undo_outputs(self, run: Run, rows: Sequence[Iterable[Entry]]) -> None:
        """The outputs that compensations are called with."""
        wanted = {undo.undo_of.path: undo for undo in run.undos if undo.undo_of is not None}
        for row in rows:
            for entry in row:
                if isinstance(entry, AttemptEnded) and entry.failure is None and entry.path in wanted:
                    particulars = wanted[entry.path].particulars
                    assert particulars is not None
                    particulars.output = entry.output
        undo = ending.present_undo(run)
        if undo is not None:
            self._dispatcher.enqueue(undo)
