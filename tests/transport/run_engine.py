"""A RunService on loopback whose engine is a table: what the tests of the service and of the clients dial."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import msgspec

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Event
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.explanation import ExplanationView
from stepwire_engine.core.history import RunView
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import RunRecord
from stepwire_engine.scheduler.ends import Ended, Ends
from stepwire_engine.scheduler.starts import StartCall, Started
from stepwire_engine.store.base import LogPage, LogRow, RunPage
from stepwire_engine.transport.run_service import RunService

T = TypeVar("T")
PAYLOAD_BYTES_MAX = 1024 * 1024
GATE_SECONDS = 10.0


def open_run(run_id: str = "r1", **changes: Any) -> RunView:
    """A RUNNING run of the flow "orders"."""
    view = RunView(run_id=run_id, flow="orders", state=RunState.RUNNING, input=NULL, created_at_ms=1_767_225_600_000)
    return msgspec.structs.replace(view, **changes)


def ended_run(run_id: str = "r1", output: bytes | None = b'"done"', **changes: Any) -> RunView:
    """The same, SUCCEEDED."""
    ended = {
        "state": RunState.SUCCEEDED,
        "output": None if output is None else Payload(output),
        "ended_at_ms": 1_767_225_601_500,
    }
    return open_run(run_id, **(ended | changes))


class TablePort:
    """The engine: runs are what the test puts in. `refusal` is raised by every call instead of an answer."""

    def __init__(self, *views: RunView) -> None:
        self.runs = {view.run_id: view for view in views}
        self.records: list[RunRecord] = []
        self.unreadable: frozenset[int] = frozenset()
        self.keys: dict[str, str] = {}
        self.event_ids: set[str] = set()
        self.lines: list[LogRow] = []
        """Log lines, of whatever run."""
        self.dropped = 0
        self.over: set[str] = set()
        """Runs that can no longer be cancelled."""
        self.refused: dict[bytes, CallRefused] = {}
        """Inputs with which no run of several starts."""
        self.refusal: Exception | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.watched = threading.Semaphore(0)
        """One more for each watch that has sent the run and waits for changes, and when somebody waits for ends."""
        self.left = threading.Semaphore(0)
        """One more for each of them that ended."""
        self._changed: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._ends = Ends(lambda run_id: self.view(run_id, include_steps=False))

    def put(self, *views: RunView) -> None:
        """Commit these changes, in one turn of the loop."""
        for view in views:
            self.runs[view.run_id] = view
            for event in self._changed[view.run_id]:
                event.set()
            if view.state.terminal:
                self._ends.note(view)

    async def start(self, flow: str, payload: Payload, key: str, traceparent: str) -> tuple[str, bool]:
        self._ask("start", flow, payload, key, *([traceparent] if traceparent else []))
        return self._start(flow, payload, key)

    async def start_many(self, calls: Sequence[StartCall]) -> list[Started | CallRefused]:
        self._ask("start_many", *calls)
        return [
            self.refused.get(call.payload.data) or Started(*self._start(call.flow, call.payload, call.key))
            for call in calls
        ]

    def _start(self, flow: str, payload: Payload, key: str) -> tuple[str, bool]:
        if key in self.keys:
            return self.keys[key], True
        run_id = f"r{len(self.runs) + 1}"
        self.put(open_run(run_id, flow=flow, input=payload, id=key))
        if key:
            self.keys[key] = run_id
        return run_id, False

    async def view(self, run_id: str, *, include_steps: bool) -> RunView:
        self._ask("view", run_id, include_steps)
        if run_id not in self.runs:
            raise CallRefused(ErrorCode.RUN_NOT_FOUND, f"there is no run {run_id!r}")
        return self.runs[run_id]

    async def explain(self, run_id: str) -> ExplanationView:
        return ExplanationView(run=await self.view(run_id, include_steps=True), at_ms=1_767_225_603_000)

    async def list_runs(self, *, flow: str, states: Sequence[RunState], limit: int, page_token: str) -> RunPage:
        self._ask("list", flow, tuple(states), limit, page_token)
        below = int(page_token[1:]) if page_token else len(self.records) + 1
        page = [record for record in reversed(self.records) if record.number < below][:limit]
        more = bool(page) and page[-1].number > 1
        return RunPage(tuple(page), f"r{page[-1].number}" if more else "", unreadable=self.unreadable)

    async def resume(self, run_id: str) -> None:
        self._ask("resume", run_id)

    async def cancel(self, run_id: str, undo: bool | None) -> None:
        self._ask("cancel", run_id, undo)
        if run_id in self.over:
            raise CallRefused(ErrorCode.WRONG_STATE, f"run {run_id} has ended")

    async def send_event(self, event: Event) -> tuple[str, bool]:
        self._ask("send", event)
        event_id = event.id or "made"
        existing = event_id in self.event_ids
        self.event_ids.add(event_id)
        return event_id, existing

    async def logs(self, run_id: str, *, path: str, attempt: int, level_min: int, after: int, limit: int) -> LogPage:
        self._ask("logs", run_id, path, attempt, level_min, after, limit)
        await self.view(run_id, include_steps=False)
        wanted = [line for line in self.lines if line.number > after][:limit]
        return LogPage(tuple(wanted), wanted[-1].number if wanted else after, self.dropped)

    @contextmanager
    def changes(self, run_id: str) -> Iterator[Callable[[], Awaitable[None]]]:
        event = asyncio.Event()
        self._changed[run_id].add(event)

        async def changed() -> None:
            self.watched.release()
            await event.wait()
            event.clear()

        try:
            yield changed
        finally:
            self._changed[run_id].discard(event)
            self.left.release()

    @contextmanager
    def ends(self, run_ids: Sequence[str]) -> Iterator[Ended]:
        self._ask("ends", *run_ids)
        seen = [run_id for run_id, view in self.runs.items() if not view.state.terminal]
        with self._ends.wait(run_ids, seen) as ended:
            self.watched.release()
            try:
                yield ended
            finally:
                self.left.release()

    def _ask(self, *question: Any) -> None:
        self.asked.append(question)
        if self.refusal is not None:
            raise self.refusal


class LoopbackEngine:
    """Serves a port from a loop in its own thread, because the callers under test block theirs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loopback-engine")
        self._thread.start()
        self._server: grpc.aio.Server | None = None
        self.address = ""

    def serve(self, port: TablePort, address: str = "127.0.0.1:0") -> str:
        """Serve `port` until `stop`; returns the address."""
        self.address = self.do(self._serve(port, address))
        return self.address

    async def _serve(self, port: TablePort, address: str) -> str:
        refs = itertools.count(1)
        service = RunService(port, payload_bytes_max=PAYLOAD_BYTES_MAX, new_ref=lambda: f"ref-{next(refs)}")
        limit = PAYLOAD_BYTES_MAX + 64 * 1024
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", limit), ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([service.handler()])
        number = self._server.add_insecure_port(address)
        await self._server.start()
        return f"127.0.0.1:{number}"

    def stop(self) -> None:
        """Cut every stream and close the port."""
        if self._server is not None:
            self.do(self._server.stop(None))
            self._server = None

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function on the loop, as one turn of it."""

        async def turn() -> None:
            function(*args)

        self.do(turn())

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(GATE_SECONDS)

    def close(self) -> None:
        """Stop the server and the loop."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def passed(gate: threading.Semaphore) -> None:
    """Wait for a gate. Fails the test if it stays shut."""
    assert gate.acquire(timeout=GATE_SECONDS)
