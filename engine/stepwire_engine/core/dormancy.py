"""Runs that only wait, and for long, leave memory; time, facts and clients bring them back (DESIGN 5).

A dormant run is rows of the store: its record says WAITING and when it goes on by itself. Nothing here looks at all
runs: those that began to wait are looked at once their quiet time is over, and of the dormant ones only the soonest
is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.plan import Invoke, WaitEvent
from stepwire_engine.core import children, deadlines
from stepwire_engine.core.books import Books, Reply, earliest
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import PERFORMED, Run, StepState
from stepwire_engine.core.reads import DormantRun, DormantRuns, Unreadable
from stepwire_engine.core.refusal import unreadable_message
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import RunRecord, WaitRow

RUNS_AT_ONCE = 200
"""Runs that become dormant in one tick, and that are woken by time before others have their turn."""
LOOK_SECONDS_MAX = 60.0
"""Longest pause between two looks at a run that waits for one thing and does another."""
_SOONEST = (0, 0)
ROOM_SECONDS = 1.0
"""Pause before dormant runs that are due and find no room in memory are woken."""
NOT_OPEN = "run is not open"


class Waking:
    """A dormant run on its way into memory, and what it is woken for.

    Attributes:
        run: Stands for it until its journal was read.
        facts: Numbers of inbox rows.
        cancels: Tokens of clients that cancel it, with what they say about compensation.
        enter: Its body decided something when it was evicted, so it has to be entered.
        forgotten: It is repaired: nothing in the store would have woken it. What it had instead of an owner.
    """

    def __init__(self, record: RunRecord) -> None:
        self.run = Run(record.number)
        self.run.run_id = record.run_id
        self.run.broken = self.run.waking = self.run.resting = True
        self.facts: list[int] = []
        self.cancels: list[tuple[object, bool | None]] = []
        self.enter = False
        self.forgotten = ""


class Dormancy:
    """Puts runs to rest and wakes them.

    Attributes:
        cancel: Cancels a run in memory and answers the client.
        busy: Whether a question to the store is open that only a run in memory can use.
        concerns: Whether a fact about the run of this number, or one that starts one of these, was not acted on.
    """

    cancel: Callable[[object, str, bool | None], None]
    busy: Callable[[Run], bool]
    concerns: Callable[[int, Iterable[str]], bool]

    def __init__(self, books: Books, dispatcher: Dispatcher, decisions: Decisions) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._decisions = decisions
        self._candidates: list[tuple[float, int, float]] = []
        """When to look at a run, its number, and the pause before."""
        self._waking: dict[int, Waking] = {}
        self._asked_for: dict[str, Waking] = {}
        self._wake_ms: int | None = None
        self._wanted = False
        self._asked = False
        self._after = _SOONEST
        """Where the next question goes on: after the run that was last seen, or where those are that wake soonest."""
        self._room_at: float | None = None

    # ---- going to rest

    def consider(self, run: Run) -> None:
        """The run began to wait for something; look at it when it has done nothing else for a while."""
        self._look_later(run, self._books.config.live_idle)

    def _look_later(self, run: Run, pause: float) -> None:
        at = self._books.now.mono + pause
        if run.look_at is None or at < run.look_at:
            run.look_at = at
            heapq.heappush(self._candidates, (at, run.number, pause))

    def _look(self, run: Run, pause: float) -> None:
        run.look_at = None
        live_idle = self._books.config.live_idle
        quiet = self._books.now.mono - run.moved
        if quiet < live_idle:
            self._look_later(run, live_idle - quiet)
            return
        wake_ms = self._wake_of(run)
        due = wake_ms is not None and wake_ms <= self._books.now.unix_ms + live_idle * 1000
        if due or self.busy(run) or not waits(run):
            self._look_later(run, min(max(2 * pause, 0.5), LOOK_SECONDS_MAX))
            return
        self._rest(run, wake_ms)

    def _wake_of(self, run: Run) -> int | None:
        """When the run goes on by itself."""
        due = [run.deadline_ms]
        due.extend([deadlines.group_due_ms(g) for g in run.groups.values()])
        for step in run.open_steps():
            due.append(deadlines.step_due_ms(step))
            due.append(deadlines.goes_on_ms(step))
        return min([at_ms for at_ms in due if at_ms is not None], default=None)

    def _rest(self, run: Run, wake_ms: int | None) -> None:
        turn = Turn(run, self._books.now.unix_ms)
        turn.rests = True
        turn.wake_ms = wake_ms
        self._decisions.queue(turn, None)

    def rested(self, turn: Turn) -> None:
        """It is on record as dormant: it leaves memory, unless something happened to it meanwhile."""
        run = turn.run
        if run.in_flight or self.busy(run) or not waits(run):
            self.consider(run)
            return
        if run.body is not None:
            session = self._books.sessions[run.body.session_id]
            session.evict(run.run_id, run.body.fence)
            self._books.counters.body_evictions["engine"] += 1
            session.drop_body(run)
            self._books.speak(session)
            self._dispatcher.bodies.pump(session)
        self._books.remove(run)
        run.broken = run.gone = True
        self._dispatcher.bodies.forget(run)
        self._books.timers.forget(sum([1 for _ in run.open_steps()]))
        if turn.wake_ms is not None and (self._wake_ms is None or turn.wake_ms < self._wake_ms):
            self._wake_ms = turn.wake_ms

    # ---- time

    def next_due(self) -> float | None:
        """When `tick` has something to do, on the monotonic clock."""
        return earliest(self._candidates[0][0] if self._candidates else None, self.next_wake())

    def next_wake(self) -> float | None:
        """When the first dormant run goes on by itself, on the monotonic clock."""
        return earliest(None if self._wake_ms is None else self._books.due_mono(self._wake_ms), self._room_at)

    def tick(self) -> None:
        """Time has passed."""
        now = self._books.now
        for _ in range(RUNS_AT_ONCE):
            if not self._candidates or self._candidates[0][0] > now.mono:
                break
            at, number, pause = heapq.heappop(self._candidates)
            run = self._books.by_number.get(number)
            if run is not None and run.look_at == at:
                self._look(run, pause)
        if self._wake_ms is not None and self._wake_ms <= now.unix_ms:
            self._wake_ms = None
            self._want(_SOONEST)
        if self._room_at is not None and self._room_at <= now.mono:
            self._room_at = None
            self._want(_SOONEST)
        self._ask()

    def look(self) -> None:
        """There may be dormant runs."""
        self._want(_SOONEST)
        self._ask()

    def _want(self, after: tuple[int, int]) -> None:
        self._wanted = True
        self._after = after

    def _ask(self) -> None:
        if not self._wanted or self._asked or len(self._waking) >= RUNS_AT_ONCE:
            return
        self._wanted = False
        if len(self._books.runs) >= self._books.config.runs_in_memory_max:
            self._room_at = self._books.now.mono + ROOM_SECONDS
            return
        self._asked = True
        self._books.read(DormantRuns(self._after, RUNS_AT_ONCE))

    def due(self, read: DormantRuns, records: Sequence[RunRecord]) -> None:
        """What the store has of dormant runs that go on by themselves, soonest first."""
        self._asked = False
        for record in records:
            assert record.wake_ms is not None
            if record.wake_ms > self._books.now.unix_ms:
                if self._wake_ms is None or record.wake_ms < self._wake_ms:
                    self._wake_ms = record.wake_ms
                break
            if not self._in_memory(record.run_id) and record.number not in self._books.unreadable:
                self.wake(record)
        else:
            # There are more; unless something became due meanwhile, and everything is looked at anew.
            if len(records) >= read.limit and not self._wanted:
                last = records[-1]
                assert last.wake_ms is not None
                self._want((last.wake_ms, last.number))
        self._ask()

    # ---- waking

    def waking(self) -> Iterator[Run]:
        """What stands for the runs that are being read."""
        return iter([waking.run for waking in self._waking.values()])

    def wake_if_forgotten(self, record: RunRecord, missing: str, invoked: Sequence[str] = ()) -> None:
        """Wake a run that nothing in the store would wake in time, if there is room and it is not about to be woken.

        Args:
            missing: Of `owners.Missing`; the repair is counted and told when the run was read and has not ended.
            invoked: The runs that it waits for. One that goes on as far as the core knows will tell it how it ended.
        """
        if record.number in self._waking or record.number in self._books.unreadable:
            return
        if any([self._in_memory(run_id) for run_id in (record.run_id, *invoked)]):
            return
        if self.concerns(record.number, invoked) or (record.wake_ms is not None and self._looks_at_due):
            return
        if len(self._books.runs) < self._books.config.runs_in_memory_max:
            self.wake(record).forgotten = missing

    def _in_memory(self, run_id: str) -> bool:
        return run_id in self._books.runs or run_id in self._books.broken

    @property
    def _looks_at_due(self) -> bool:
        """Those that are due are looked at now, or as soon as there is room."""
        due = self._wake_ms is not None and self._wake_ms <= self._books.now.unix_ms
        busy = self._asked or self._wanted or bool(self._waking)
        return busy or due or self._room_at is not None

    def wake(self, record: RunRecord) -> Waking:
        """Read a dormant run; what it is woken for is added to what this returns."""
        waking = self._waking.get(record.number)
        if waking is None:
            waking = self._waking[record.number] = Waking(record)
            self._books.loads.append(waking.run)
        return waking

    def wake_for_cancel(self, token: object, run_id: str, undo: bool | None) -> None:
        """A client cancels a run that is not in memory."""
        self._by_id(run_id).cancels.append((token, undo))

    def stir(self, run_id: str) -> None:
        """A host speaks of a plan of a run that is not in memory: if it is dormant, its body was not waiting."""
        self._by_id(run_id).enter = True

    def _by_id(self, run_id: str) -> Waking:
        for waking in self._waking.values():
            if waking.run.run_id == run_id:
                return waking
        asked = self._asked_for.get(run_id)
        if asked is None:
            asked = self._asked_for[run_id] = Waking(RunRecord(0, run_id, "", RunState.WAITING, 0))
            self._books.read(DormantRun(run_id))
        return asked

    def found(self, read: DormantRun, record: RunRecord | Unreadable | None) -> None:
        """What is on record of a run that somebody asks for."""
        asked = self._asked_for.pop(read.run_id)
        if read.run_id in self._books.runs:
            self._cancel(read.run_id, asked)
        elif isinstance(record, Unreadable) or (record is not None and record.number in self._books.unreadable):
            self._refuse(read.run_id, asked, ErrorCode.RUN_UNREADABLE, unreadable_message(read.run_id))
        elif record is not None and record.state is RunState.WAITING and read.run_id not in self._books.broken:
            waking = self.wake(record)
            waking.cancels.extend(asked.cancels)
            waking.enter = waking.enter or asked.enter
        else:
            again = record is not None and not record.state.terminal
            code = ErrorCode.STORE_UNAVAILABLE if again else ErrorCode.WRONG_STATE
            message = "the run is being read again; try again" if again else NOT_OPEN
            self._refuse(read.run_id, asked, code, message)

    def _cancel(self, run_id: str, waking: Waking) -> None:
        for token, undo in waking.cancels:
            self.cancel(token, run_id, undo)

    def _refuse(self, run_id: str, waking: Waking, code: ErrorCode, message: str) -> None:
        self._books.replies.extend([Reply(token, run_id, code=code, message=message) for token, _ in waking.cancels])

    def read(self, run: Run) -> None:
        """A run was read. If it was dormant, its body has nothing to do before the next release."""
        waking = self._waking.get(run.number)
        if waking is not None:
            run.asleep = not waking.enter and waits(run)

    def awake(self, run: Run) -> Iterable[int]:
        """The run is in memory, with everything armed. Returns the facts that it was woken for."""
        waking = self._waking.pop(run.number, None)
        if waking is None:
            return ()
        if waking.forgotten:
            self._books.note_repair(run.run_id, "", waking.forgotten)
            self._decisions.alone(run, _ask_again)
        self._cancel(run.run_id, waking)
        self._ask()
        return waking.facts

    def on_record(self, run: Run) -> None:
        """Everything that the run was woken for was decided: unless that is on record, that it is awake is."""
        if run.waking and not run.in_flight:
            turn = Turn(run, self._books.now.unix_ms)
            turn.wakes = True
            self._decisions.queue(turn, None)

    def over(self, run: Run) -> Iterable[int]:
        """A run was read, and has ended meanwhile. Returns the facts that it was woken for."""
        return self._not_woken(run, ErrorCode.WRONG_STATE, NOT_OPEN)

    def unreadable(self, run: Run) -> Iterable[int]:
        """The journal of a run cannot be read. Returns the facts that it was woken for."""
        return self._not_woken(run, ErrorCode.RUN_UNREADABLE, unreadable_message(run.run_id))

    def _not_woken(self, run: Run, code: ErrorCode, message: str) -> Iterable[int]:
        waking = self._waking.pop(run.number, None)
        if waking is None:
            return ()
        self._refuse(run.run_id, waking, code, message)
        return waking.facts


def _ask_again(turn: Turn) -> None:
    """What an open step of this run waits for may be unknown to the store: say it once more."""
    for step in turn.run.open_steps():
        match step.spec:
            case WaitEvent(event=event, match=match):
                turn.waits.append(WaitRow(turn.run.number, step.path, event, match))
            case Invoke() if step.state is not StepState.BACKOFF:
                children.start(turn, step)


def waits(run: Run) -> bool:
    """Whether nothing of the run is in progress: its body saw every release and is blocked in every branch, and its
    open steps wait for time, events or other runs."""
    if run.state is not RunState.RUNNING or run.stopping is not None or run.body_ended is not None:
        return False
    if run.in_flight or run.leased or run.uncertain or run.answered < run.release_seq:
        return False
    if run.body is not None and not run.body.ready:
        return False
    for scope in run.scopes.values():
        if not (scope.ended or scope.outstanding or scope.open_groups):
            return False
    for step in run.open_steps():
        if step.queued or not (step.kind in PERFORMED or step.state is StepState.BACKOFF):
            return False
    return True
