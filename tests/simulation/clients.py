"""Clients of a simulated world: they start runs, cancel some, send events (some twice, some for later), and wait.

A client repeats a call that was not answered, as real ones do. After the faults are over, events that runs still wait
for are sent, and paused runs are resumed, so that every run can end.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire_engine.core.books import Reply
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.units import EventRecord
from tests.simulation.programs import EVENTS, KEYS, TRIGGER_EVENT, event_data

if TYPE_CHECKING:
    from tests.simulation.simulator import World

Answer = Callable[[Reply | None], None]
"""Told the reply, or None if the engine was lost with it."""
CLIENT_KEY = "key-"
_AGAIN = 0.3
_AGAIN_LATER = (ErrorCode.STORE_UNAVAILABLE, ErrorCode.STORE_FULL)


class Clients:
    """Everything that is asked of the engine from outside.

    Attributes:
        cancelled: Runs whose cancellation was answered OK.
        sent: Events that were answered OK, by id.
    """

    def __init__(self, world: World, runs: int) -> None:
        self._world = world
        self._runs = runs
        self._tokens: dict[int, Answer] = {}
        self._numbers = itertools.count()
        self._pending = 0
        self.cancelled: set[str] = set()
        self.sent: set[str] = set()

    @property
    def done(self) -> bool:
        """Nobody waits for an answer, and nothing is to be asked any more."""
        return not self._pending

    def begin(self) -> None:
        rng, at = self._world.rng, self._world.at
        for index in range(self._runs):
            self._pending += 1
            at(rng.uniform(0.2, 1.0), lambda index=index: self._start(index))
        if "clients" in self._world.features:
            for _ in range(rng.choice([0, 1, 1, 2])):
                undo = rng.choice([None, True, True, False])
                at(rng.uniform(0.5, 10.0), lambda undo=undo: self._cancel_some(undo))
            for _ in range(rng.choice([0, 2, 5])):
                self._send_at_random()
        at(1.0, self._operate)

    # ---- asking

    def _ask(self, ask: Callable[[int], None], answer: Answer) -> None:
        """Put a question to the engine; `answer` is called once."""
        if self._world.core is None or self._world.engine.draining:
            self._world.at(_AGAIN, lambda: answer(None))
            return
        token = next(self._numbers)
        self._tokens[token] = answer
        ask(token)
        self._world.engine.pump()

    def answered(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            assert isinstance(reply.token, int)
            self._tokens.pop(reply.token)(reply)

    def engine_lost(self) -> None:
        """Nobody knows what became of the calls in progress."""
        lost, self._tokens = self._tokens, {}
        for answer in lost.values():
            self._world.at(_AGAIN, lambda answer=answer: answer(None))

    # ---- starts

    def _start(self, index: int, tries: int = 0) -> None:
        """Start a run under a key, each time with another id, as an engine makes them."""
        world = self._world
        run_id = f"r{index}" + "'" * tries

        def answer(reply: Reply | None) -> None:
            if reply is not None and (reply.code is None or reply.key_taken_by):
                started = reply.key_taken_by or reply.run_id
                assert started in world.truth.runs, f"I1: start of {started} was answered before its commit"
                self._pending -= 1
            else:
                assert reply is None or reply.code in (*_AGAIN_LATER, ErrorCode.UNKNOWN_FLOW), reply
                world.at(_AGAIN, lambda: self._start(index, tries + 1))

        def ask(token: int) -> None:
            assert world.core is not None
            world.core.start_run(
                token,
                run_id=run_id,
                seed=world.seed,
                flow=f"main{index}",
                payload=Payload(json.dumps({"run": index}).encode()),
                key=f"{CLIENT_KEY}{index}",
                now=world.engine.present(),
            )

        self._ask(ask, answer)

    # ---- cancellation

    def _cancel_some(self, undo: bool | None) -> None:
        world = self._world
        runs = [run_id for run_id, facts in world.truth.runs.items() if facts.ended is None]
        if runs:
            self._pending += 1
            self._cancel(world.rng.choice(runs), undo)

    def _cancel(self, run_id: str, undo: bool | None) -> None:
        world = self._world
        facts = world.truth.runs[run_id]
        if facts.undo_order is not None and facts.ended is None:
            world.note("cancel while undoing")

        def answer(reply: Reply | None) -> None:
            if facts.unreadable and reply is not None and reply.code is not None:
                self._pending -= 1  # Nobody can say anything about this run.
                return
            if reply is None or reply.code in _AGAIN_LATER:
                world.at(_AGAIN, lambda: self._cancel(run_id, undo))
                return
            assert reply.code in (None, ErrorCode.WRONG_STATE), reply
            if reply.code is None:
                self.cancelled.add(run_id)
                assert facts.stopping is not None, f"I1: cancel of {run_id} was answered before its commit"
            self._pending -= 1

        def ask(token: int) -> None:
            assert world.core is not None
            world.core.cancel_run(token, run_id, undo, world.engine.present())

        self._ask(ask, answer)

    # ---- events

    def _send_at_random(self) -> None:
        rng = self._world.rng
        name = rng.choice([*EVENTS, *EVENTS, TRIGGER_EVENT])
        event_id = rng.choice([f"client-{self._world.count('event')}", f"shared-{rng.randrange(3)}"])
        key, delay = rng.randrange(KEYS), rng.choice([0.0, 0.0, 1.0, 4.0])
        for _ in range(rng.choice([1, 1, 2])):
            self._world.at(rng.uniform(0.3, 11.0), lambda: self._send(event_id, name, key, delay))

    def _send(self, event_id: str, name: str, key: int, delay: float) -> None:
        self._pending += 1
        self._send_again(event_id, name, key, delay)

    def _send_again(self, event_id: str, name: str, key: int, delay: float) -> None:
        world = self._world

        def answer(reply: Reply | None) -> None:
            if reply is None or reply.code is not None:
                world.at(_AGAIN, lambda: self._send_again(event_id, name, key, delay))
                return
            self._pending -= 1
            self.sent.add(event_id)
            accepted = [event for _, _, event in world.truth.accepted if event.id == event_id]
            assert accepted, f"I1: event {event_id} was answered before its commit"
            if reply.existing:
                world.note("event with a known id")

        def ask(token: int) -> None:
            assert world.core is not None
            now = world.engine.present()
            due_ms = now.unix_ms + round(delay * 1000)
            world.core.send_event(token, EventRecord(event_id, name, event_data(key), due_ms, now.unix_ms), now)

        self._ask(ask, answer)

    # ---- so that every run can end

    def _operate(self) -> None:
        world = self._world
        core = world.core
        if core is not None:
            for run in list(core.runs.values()):
                if run.state is RunState.PAUSED and (world.rng.random() < 0.5 or world.now > world.horizon):
                    self._ask(lambda token, run_id=run.run_id: self._resume(token, run_id), lambda _: None)
        if world.now > world.horizon and world.is_open:
            for name in EVENTS:
                for key in range(KEYS):
                    self._send(f"rescue-{world.count('rescue')}", name, key, 0.0)
        world.at(1.0, self._operate)

    def _resume(self, token: int, run_id: str) -> None:
        assert self._world.core is not None
        self._world.core.resume_run(token, run_id, self._world.engine.present())
