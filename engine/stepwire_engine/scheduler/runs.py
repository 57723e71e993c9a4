"""What clients ask of the engine: start, read, list, resume and cancel runs, wait for their changes, send events.

Calls that write are answered from the core's replies, so never before their commit. Reads go to the store
in the reader thread; the run in memory only adds what is not journaled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Event
from stepwire_engine.clock import Clock
from stepwire_engine.core.books import Reply
from stepwire_engine.core.commits import STORE_FULL
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.entries import Entry, RunCreated, RunState
from stepwire_engine.core.events import EVENT_AHEAD_MS_MAX
from stepwire_engine.core.explanation import ExplanationView, explain
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.history import RunView, ended_view, live_view, run_view
from stepwire_engine.core.model import Run
from stepwire_engine.core.reasons import Lacks, WaitReason
from stepwire_engine.core.refusal import CallRefused, busy, unreadable_message
from stepwire_engine.core.units import EventRecord
from stepwire_engine.scheduler.ends import Ended, Ends, record_bytes
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE
from stepwire_engine.scheduler.reader import Reader
from stepwire_engine.scheduler.starts import Batch, Question, StartCall, Started
from stepwire_engine.store.base import LogPage, LogQuery, RunPage, RunRecord, Store, StoreCorrupt, StoreError

T = TypeVar("T")
Changed = Callable[[], Awaitable[None]]
"""Returns after the next commit that changed the run; one that happened since the last return counts."""

RETRY_FULL_SECONDS = 1.0
"""When to try again what a full store refused: it looks for space as often."""
_JUST_ENDED_MAX = 512
"""Records of ended runs kept in memory, each of at most 64 KiB."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBounds:
    """What is accepted at once.

    Attributes:
        runs_in_memory_max: Runs in progress.
        starts_pending_max: Calls that write and wait for their commit; of runs started together each counts.
        reads_pending_max: Reads that wait for the reader thread.
        units_waiting_max: Commits on their way to the store; while there are more, nothing that writes is accepted.
        payload_bytes_max: Longest input, and longest data of an event.
    """

    runs_in_memory_max: int = 100_000
    starts_pending_max: int = 10_000
    reads_pending_max: int = 1_000
    units_waiting_max: int = 50_000
    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX


class _Watch:
    """One client's wait for changes of one run."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        self.changed = asyncio.Event()


class Runs:
    """The clients' side of the engine. Used on the engine's loop only.

    Args:
        core: Asked and told; never read for what is not committed.
        wake: Makes the loop take what the core has to say.
        units_waiting: Counts the commits on their way to the store.
    """

    def __init__(
        self,
        core: EngineCore,
        store: Store,
        reader: Reader,
        clock: Clock,
        bounds: RunBounds,
        wake: Callable[[], None],
        units_waiting: Callable[[], int],
    ) -> None:
        self._units_waiting = units_waiting
        self._core = core
        self._store = store
        self._reader = reader
        self._clock = clock
        self._bounds = bounds
        self._wake = wake
        self.lacks = Lacks(core.sessions, lambda: len(core.runs) >= bounds.runs_in_memory_max)
        self._ends = Ends(lambda run_id: self.view(run_id, include_steps=False))
        self._pending: set[asyncio.Future[Any]] = set()
        self._asking = 0
        self._reading = 0
        self._watches: dict[str, set[_Watch]] = {}
        self._just_ended: OrderedDict[str, RunView] = OrderedDict()
        self._intake_closed: CallRefused | None = None
        self._ended: CallRefused | None = None

    # ---- calls

    async def start(self, flow: str, payload: Payload, key: str, traceparent: str = "") -> tuple[str, bool]:
        """Start a run, durably (MISSION T2).

        Args:
            key: Idempotency key; empty: none.
            traceparent: Where its spans belong; empty: nobody says so.

        Returns:
            The run's id, and whether it existed before under this key.

        Raises:
            CallRefused: UNKNOWN_FLOW, KEY_CONFLICT, PAYLOAD_TOO_LARGE, LIMIT_EXCEEDED, DRAINING, STORE_UNAVAILABLE.
        """
        [outcome] = await self.start_many((StartCall(flow, payload, key, traceparent),))
        if isinstance(outcome, CallRefused):
            raise outcome
        return outcome.run_id, outcome.existing

    async def start_many(self, calls: Sequence[StartCall]) -> list[Started | CallRefused]:
        """Start runs, durably, each by itself.

        Args:
            calls: At least one.

        Returns:
            What became of each call, in their order.

        Raises:
            CallRefused: nothing was done, for a reason that holds for all: PAYLOAD_TOO_LARGE, LIMIT_EXCEEDED,
                DRAINING, STORE_UNAVAILABLE.
        """
        self._admit(len(calls))
        for call in calls:
            self._check_size(f"input of {call.flow!r}", call.payload)
        in_memory, bounds = len(self._core.runs), self._bounds
        _check_room(in_memory, len(calls), bounds.runs_in_memory_max, "runs are in progress", "runs_in_memory_max")
        batch = Batch(len(calls))
        self._pending.add(batch.done)
        self._asking += len(calls)
        try:
            for index, call in enumerate(calls):
                self._core.start_run(
                    Question(batch, index),
                    run_id=self._clock.run_id(),
                    seed=self._clock.seed(),
                    flow=call.flow,
                    payload=call.payload,
                    key=call.key,
                    traceparent=call.traceparent,
                    now=self._clock.now(),
                )
            self._wake()
            await batch.done
        finally:
            self._pending.discard(batch.done)
            self._asking -= len(calls)
        return [await self._started(call, reply) for call, reply in zip(calls, batch.take(), strict=True)]

    async def _started(self, call: StartCall, reply: Reply | None) -> Started | CallRefused:
        assert reply is not None
        try:
            if reply.key_taken_by:
                run_id, existing = await self._existing(reply.key_taken_by, call.flow, call.payload, call.key)
                return Started(run_id, existing)
            _raise_refusal(reply)
        except CallRefused as refusal:
            return refusal
        return Started(reply.run_id, reply.existing)

    async def resume(self, run_id: str) -> None:
        """Let a paused run go on. Raises CallRefused (RUN_NOT_FOUND, WRONG_STATE, and as `start`)."""
        self._admit()
        reply = await self._asked(lambda token: self._core.resume_run(token, run_id, self._clock.now()))
        if reply.code is ErrorCode.WRONG_STATE and run_id not in self._core.runs:
            record = await self._record(run_id)
            if record.number in self._core.unreadable:
                raise CallRefused(ErrorCode.RUN_UNREADABLE, unreadable_message(run_id))
            raise CallRefused(ErrorCode.WRONG_STATE, f"run {run_id} is {record.state.name}, not PAUSED")
        _raise_refusal(reply)

    async def cancel(self, run_id: str, undo: bool | None) -> None:
        """Cancel a run, durably; one that is or is being cancelled already is left to it (MISSION S20).

        Args:
            undo: Whether completed steps are compensated; None: as the flow was registered.

        Raises:
            CallRefused: RUN_NOT_FOUND, WRONG_STATE for a run that ended otherwise, and as `start`.
        """
        self._admit()
        reply = await self._asked(lambda token: self._core.cancel_run(token, run_id, undo, self._clock.now()))
        if reply.code is ErrorCode.WRONG_STATE and run_id not in self._core.runs:
            record = await self._record(run_id)
            if record.state is RunState.CANCELLED:
                return  # As was asked for: the first answer may have been lost.
            raise CallRefused(ErrorCode.WRONG_STATE, f"run {run_id} has ended: it is {record.state.name}")
        _raise_refusal(reply)

    async def send_event(self, event: Event) -> tuple[str, bool]:
        """Accept an event, durably (MISSION T1).

        Args:
            event: Within its bounds. Without an id it gets one; with a time in the past it is due now.

        Returns:
            Its id, and whether that was known, so that nothing was sent again.

        Raises:
            CallRefused: INVALID_ARGUMENT if it is due in more than 366 days, PAYLOAD_TOO_LARGE, LIMIT_EXCEEDED,
                DRAINING, STORE_UNAVAILABLE.
        """
        self._admit()
        self._check_size(f"data of event {event.name!r}", event.data)
        now = self._clock.now()
        due_ms = now.unix_ms if event.at_ms is None else max(event.at_ms, now.unix_ms)
        if due_ms > now.unix_ms + EVENT_AHEAD_MS_MAX:
            raise CallRefused(ErrorCode.INVALID_ARGUMENT, f"event {event.name!r} is due in more than 366 days")
        record = EventRecord(
            event.id or self._clock.run_id(),
            event.name,
            event.data,
            due_ms,
            now.unix_ms,
            traceparent=event.traceparent,
        )
        reply = await self._asked(lambda token: self._core.send_event(token, record, self._clock.now()))
        _raise_refusal(reply)
        return reply.event_id, reply.existing

    async def view(self, run_id: str, *, include_steps: bool) -> RunView:
        """The run as of its last commit. Raises CallRefused (RUN_NOT_FOUND, STORE_UNAVAILABLE)."""
        now = self._clock.now().unix_ms
        live = self._core.runs.get(run_id)
        if live is not None and not include_steps:
            seen = live_view(live, now_unix_ms=now, lacks=self.lacks)
            if seen is not None:
                return seen
        if not include_steps and (just_ended := self._just_ended.get(run_id)) is not None:
            return just_ended
        record = await self._record(run_id)
        rows = await self._journal(record)
        view = run_view(
            record.number,
            rows,
            live=self._core.runs.get(run_id),
            now_unix_ms=now,
            include_steps=include_steps,
            lacks=self.lacks,
            waiting=record.state is RunState.WAITING,
        )
        if record.number in self._core.unreadable and not view.state.terminal:
            return msgspec.structs.replace(view, reason=WaitReason.JOURNAL_UNREADABLE)
        return view

    async def explain(self, run_id: str) -> ExplanationView:
        """The run with its steps, and why it does not move. Raises CallRefused as `view`."""
        view = await self.view(run_id, include_steps=True)
        run = self._core.runs.get(run_id)
        if run is None or run.broken:
            record = await self._record(run_id)
            run = rebuild(record.number, await self._journal(record))
        return explain(view, run, self._core.sessions, self._clock.now(), builtin=ENGINE_INSTANCE)

    async def list_runs(
        self, *, flow: str = "", states: Sequence[RunState] = (), limit: int = 100, page_token: str = ""
    ) -> RunPage:
        """One page of runs, newest first; `limit` 1..1000. Raises CallRefused (INVALID_ARGUMENT)."""

        def page() -> RunPage:
            return self._store.list_runs(flow=flow, states=states, limit=limit, page_token=page_token)

        try:
            found = await self._read(self._reader.read(page), "the list of runs")
        except ValueError:
            raise CallRefused(ErrorCode.INVALID_ARGUMENT, "page_token or page size is malformed") from None
        aside = [run.number for run in found.runs if run.number in self._core.unreadable and not run.state.terminal]
        return msgspec.structs.replace(found, unreadable=found.unreadable.union(aside)) if aside else found

    async def logs(
        self, run_id: str, *, path: str = "", attempt: int = 0, level_min: int = 0, after: int = 0, limit: int = 100
    ) -> LogPage:
        """One page of what flow and steps of a run logged, oldest first; `limit` 1..1000. Raises CallRefused."""
        record = await self._record(run_id)
        query = LogQuery(record.number, after, path, attempt, level_min, limit)
        return await self._read(self._reader.read(lambda: self._store.logs(query)), f"the log lines of run {run_id}")

    @contextmanager
    def changes(self, run_id: str) -> Iterator[Changed]:
        """Watch a run: enter, read the run, then await the yielded function before each further read.

        The function raises CallRefused (DRAINING, STORE_UNAVAILABLE) when the engine stops.
        """
        watch = _Watch()
        self._watches.setdefault(run_id, set()).add(watch)

        async def changed() -> None:
            self._refuse_if_ended()
            await watch.changed.wait()
            watch.changed.clear()
            self._refuse_if_ended()

        try:
            yield changed
        finally:
            watches = self._watches[run_id]
            watches.discard(watch)
            if not watches:
                del self._watches[run_id]

    def ends(self, run_ids: Sequence[str]) -> AbstractContextManager[Ended]:
        """Wait for the ends of runs: enter, then await the yielded function until it has told of all of them.

        Entering raises CallRefused (LIMIT_EXCEEDED); the function RUN_NOT_FOUND and what `view` raises for one that
        is not in memory, and DRAINING or STORE_UNAVAILABLE when the engine stops.
        """
        return self._ends.wait(run_ids, self._core.runs)

    # ---- what the loop tells

    def answer(self, replies: Sequence[Reply]) -> None:
        """Hand out the core's answers; a caller that has gone is skipped."""
        for reply in replies:
            token = reply.token
            if isinstance(token, Question):
                token.batch.answer(token.index, reply)
            elif isinstance(token, asyncio.Future) and not token.done():
                token.set_result(msgspec.structs.replace(reply, token=None))  # It would know what it is the result of.

    def note_ended(self, ended: Sequence[tuple[Run, int]]) -> None:
        """Keep the records of the last runs that ended: whoever waits for one asks for it now."""
        for run, at_ms in ended:
            view = ended_view(run, at_ms)
            self._ends.note(view)
            if record_bytes(view) <= limits.INLINE_BYTES_MAX:
                self._just_ended[run.run_id] = view
                if len(self._just_ended) > _JUST_ENDED_MAX:
                    self._just_ended.popitem(last=False)

    def note_changed(self, run_ids: set[str]) -> None:
        """Wake those who watch these runs."""
        if waited_for := self._ends.waited_for(run_ids):
            self._ends.look([run_id for run_id in waited_for if run_id not in self._core.runs])
        if self._watches:
            for run_id in run_ids & self._watches.keys():
                for watch in self._watches[run_id]:
                    watch.changed.set()

    def close_intake(self, refusal: CallRefused) -> None:
        """From now on calls that write are refused with this."""
        self._intake_closed = self._intake_closed or refusal

    def end(self, refusal: CallRefused) -> None:
        """Refuse everything, those who wait included."""
        self._ended = refusal
        self.close_intake(refusal)
        for future in self._pending:
            if not future.done():
                future.set_exception(refusal)
        self._ends.refuse(refusal)
        for watches in self._watches.values():
            for watch in watches:
                watch.changed.set()

    @property
    def pending(self) -> int:
        """What callers asked for and wait to see committed; a run each of those started together."""
        return self._asking

    # ---- inside

    def _admit(self, count: int = 1) -> None:
        if self._intake_closed is not None:
            raise self._intake_closed
        if not self._store.accepting:
            raise CallRefused(ErrorCode.STORE_FULL, STORE_FULL, retry_after=RETRY_FULL_SECONDS)
        asking, waiting, bounds = self._asking, self._units_waiting(), self._bounds
        _check_room(asking, count, bounds.starts_pending_max, "calls wait for their commit", "starts_pending_max")
        _check_room(waiting, count, bounds.units_waiting_max, "commits wait for the store", "units_waiting_max")

    def _check_size(self, what: str, payload: Payload) -> None:
        size, limit = len(payload.data), self._bounds.payload_bytes_max
        if size > limit:
            raise CallRefused(ErrorCode.PAYLOAD_TOO_LARGE, f"{what} is {size} bytes, limit {limit}")

    def _refuse_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended

    async def _asked(self, ask: Callable[[object], None]) -> Reply:
        """Put a question to the core; the future is its token."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending.add(future)
        self._asking += 1
        try:
            ask(future)
            self._wake()
            return await future
        finally:
            self._pending.discard(future)
            self._asking -= 1

    async def _existing(self, run_id: str, flow: str, payload: Payload, key: str) -> tuple[str, bool]:
        """The answer for a key of a run that is not in memory: the same run, if it is the same request."""
        record = await self._record(run_id)
        rows = await self._journal(record)
        created = rows[0][0] if rows else None
        if isinstance(created, RunCreated) and created.flow == flow and created.input.is_same(payload):
            return run_id, True
        raise CallRefused(ErrorCode.KEY_CONFLICT, f"id {key!r} is in use by run {run_id} with another flow or input")

    async def _record(self, run_id: str) -> RunRecord:
        find = self._reader.read(lambda: self._store.find_run(run_id))
        record = await self._read(find, f"run {run_id}", run_id)
        if record is None:
            raise CallRefused(ErrorCode.RUN_NOT_FOUND, f"there is no run {run_id}")
        return record

    async def _journal(self, record: RunRecord) -> Sequence[Sequence[Entry]]:
        return await self._read(self._reader.journal(record.number), f"run {record.run_id}", record.run_id)

    async def _read(self, reading: Awaitable[T], what: str, run_id: str = "") -> T:
        self._refuse_if_ended()
        if self._reading >= self._bounds.reads_pending_max:
            raise busy(f"{self._reading} reads are waiting (reads_pending_max)")
        self._reading += 1
        try:
            return await reading
        except StoreError as error:
            _log.error("cannot read %s: %s", what, error)
            if run_id and isinstance(error, StoreCorrupt):
                raise CallRefused(ErrorCode.RUN_UNREADABLE, unreadable_message(run_id)) from None
            raise CallRefused(
                ErrorCode.STORE_UNAVAILABLE, f"{what} cannot be read; the engine's log says why"
            ) from None
        finally:
            self._reading -= 1


def _check_room(taken: int, count: int, limit: int, what: str, setting: str) -> None:
    """Refuse `count` more of what there are `taken`."""
    if count > limit:
        message = f"{count} runs together are more than the {limit} of {setting}; start fewer with one call"
        raise CallRefused(ErrorCode.LIMIT_EXCEEDED, message)
    if taken + count > limit:
        raise busy(f"{taken} {what} ({setting})")


def _raise_refusal(reply: Reply) -> None:
    if reply.code is not None:
        retry_after = RETRY_FULL_SECONDS if reply.code is ErrorCode.STORE_FULL else None
        raise CallRefused(reply.code, reply.message, retry_after=retry_after)
