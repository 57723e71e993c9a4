"""Events start flows and wake waiters, each exactly once, whatever is killed (MISSION T1, S18, I15)."""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync
from stepwire.errors import EngineUnavailable
from tests.e2e.processes import QUICK, Engine, Stage, wait_for

PAID_FLOWS = ("ship", "book", "thank")
"""What "order/paid" starts."""
ROUNDS = 20
EVENTS_PER_ROUND = 5
DELAY_MS_MAX = 12.0


@dataclass
class Served:
    """An engine with a host, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    client: stepwire.ClientSync
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def waiter(self, n: int, **how: float) -> RunHandleSync[Any]:
        """A run that waits for the event "news" with this number."""
        # With an id the call may be repeated by the client, whose connection ends with each engine.
        return self.client.start("waits", {"event": "news", "n": n, **how}, id=f"waiter {next(self.numbers)}")

    def waiting(self, run: RunHandleSync[Any]) -> RunHandleSync[Any]:
        wait_for(lambda: run.get().reason == "event", "the run to wait for its event")
        return run

    def started_by(self, event_id: str) -> dict[str, list[str]]:
        """States of the runs that this event started, by flow."""
        found: dict[str, list[str]] = {}
        for flow in (*PAID_FLOWS, "wrap"):
            records = [self.client.get(run.run_id) for run in self.client.list(flow=flow)]
            states = [str(run.state) for run in records if run.input["id"] == event_id]
            if states:
                found[flow] = states
        return found

    def all_ended(self, event_id: str, *flows: str) -> dict[str, list[str]]:
        """Wait until the event has started these flows, and they ended."""

        def ended() -> bool:
            states = self.started_by(event_id)
            return set(flows) <= states.keys() and {"SUCCEEDED", "FAILED"} >= set(itertools.chain(*states.values()))

        wait_for(ended, f"{flows} to end")
        return self.started_by(event_id)


@pytest.fixture(scope="module")
def shared(shared_stage: Stage) -> Served:
    engine = shared_stage.engine(**QUICK)
    shared_stage.host(engine, "only", flows="event_flows")
    return Served(shared_stage, engine, shared_stage.client(engine))


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    yield shared
    assert "Traceback" not in shared.engine.running.said


ALL_OF_THEM = {"ship": ["SUCCEEDED"], "book": ["SUCCEEDED"], "thank": ["FAILED"]}


# ---- starting flows


def test_a_step_starts_three_flows_of_which_one_fails(served: Served) -> None:
    """Neither the sender nor the others mind. The sender has the ids, also after a kill of the engine."""
    run = served.client.start("pays", "payment-1")
    served.stage.gates.arrived(run.run_id, "gated")
    assert served.all_ended("payment-1", *PAID_FLOWS) == ALL_OF_THEM
    served.engine.kill()
    served.engine.start()
    served.stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == ["payment-1"]
    assert served.started_by("payment-1") == ALL_OF_THEM


def test_an_id_counts_once(served: Served) -> None:
    for _ in range(3):
        assert served.client.send("order/paid", {"order": 1}, id="payment-2") == "payment-2"
    other = served.client.send("order/paid", {"order": 1})
    assert served.all_ended("payment-2", *PAID_FLOWS) == ALL_OF_THEM
    assert served.all_ended(other, *PAID_FLOWS) == ALL_OF_THEM
    assert served.started_by("payment-2") == ALL_OF_THEM


def test_a_trigger_may_choose(served: Served) -> None:
    gift = served.client.send("order/paid", {"order": 2, "gift": True})
    assert served.all_ended(gift, *PAID_FLOWS, "wrap") == ALL_OF_THEM | {"wrap": ["SUCCEEDED"]}
    refund = served.client.send("order/refunded", {"order": 2, "gift": True})
    assert served.all_ended(refund, "book") == {"book": ["SUCCEEDED"]}


@pytest.mark.parametrize("killed", [False, True], ids=["live", "the engine is killed meanwhile"])
def test_an_event_of_the_future(served: Served, killed: bool) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1.0 if killed else 0.4)
    event = served.client.send("order/refunded", {}, at=at)
    if killed:
        served.engine.kill()
        served.engine.start()
    assert served.all_ended(event, "book") == {"book": ["SUCCEEDED"]}
    run = next(run for run in served.client.list(flow="book") if served.client.get(run.run_id).input["id"] == event)
    early = at - run.created_at
    assert early <= timedelta(milliseconds=1), "milliseconds are what the engine counts"


def test_the_command_starts_a_flow(served: Served) -> None:
    event = served.stage.stepwire(served.engine, "send", "order/refunded", "-d", '{"order": 3}').splitlines()[0]
    assert served.all_ended(event, "book") == {"book": ["SUCCEEDED"]}


# ---- waiting


def test_an_event_after_the_wait_began(served: Served) -> None:
    run = served.waiting(served.waiter(1))
    served.client.send("news", {"n": 2, "text": "another number"})
    served.client.send("olds", {"n": 1, "text": "another name"})
    served.client.send("news", {"n": 1, "text": "that"})
    assert run.result(timeout=10) == {"n": 1, "text": "that"}


def test_an_event_before_the_wait_began_counts_only_with_lookback(served: Served) -> None:
    served.client.send("news", {"n": 3, "text": "first"})
    served.client.send("news", {"n": 3, "text": "second"})
    late = served.waiter(3, timeout=0.3)
    early = served.waiter(3, timeout=10, lookback=60)
    assert early.result(timeout=10) == {"n": 3, "text": "first"}
    assert late.result(timeout=10) is None


def test_lookback_finds_events_of_an_earlier_engine(served: Served) -> None:
    served.client.send("news", {"n": 4})
    served.engine.kill()
    served.engine.start()
    assert served.waiter(4, timeout=0, lookback=60).result(timeout=10) == {"n": 4}


def test_a_wait_times_out_after_a_kill_of_the_engine(served: Served) -> None:
    run = served.waiting(served.waiter(5, timeout=0.8))
    served.engine.kill()
    served.engine.start()
    assert run.result(timeout=10) is None


def test_two_waiters_wake(served: Served) -> None:
    runs = [served.waiting(served.waiter(6)) for _ in range(2)]
    served.client.send("news", {"n": 6})
    assert [run.result(timeout=10) for run in runs] == [{"n": 6}] * 2


# ---- kill -9


class Senders:
    """Sends events from several threads until each of them was accepted, whatever happens to the engine."""

    def __init__(self, client: stepwire.ClientSync) -> None:
        self.client = client
        self.refused = 0

    def send(self, n: int) -> None:
        """The same id again is the same event, so it may be sent until somebody answers."""
        while True:
            try:
                self.client.send("tick", {"n": n}, id=f"tick-{n}")
            except EngineUnavailable:
                self.refused += 1
            else:
                return


def left_behind(engine: Engine) -> dict[str, int]:
    """What an engine that is dead had accepted and not acted upon."""
    with closing(sqlite3.connect(f"file:{engine.db}?mode=ro", uri=True)) as db:
        queries = {
            "events": "SELECT count(*) FROM events WHERE delivered = 0",
            "facts": "SELECT count(*) FROM inbox",
        }
        return {what: db.execute(query).fetchone()[0] for what, query in queries.items()}


@pytest.mark.timeout(90)
def test_twenty_kills_between_an_event_and_its_delivery(
    stage: Stage, rng: random.Random, figure: Callable[[str], None]
) -> None:
    """Each event starts two flows and wakes one waiter, exactly once."""
    engine = stage.engine(**QUICK)
    stage.host(engine, "only", flows="event_flows")
    client = stage.client(engine)
    numbers = range(ROUNDS * EVENTS_PER_ROUND)
    waiters = [client.start("waits", {"event": "tick", "n": n}) for n in numbers]
    for run in waiters:
        wait_for(lambda: run.get().reason == "event", "every waiter to wait")  # noqa: B023
    senders = Senders(client)
    left: Counter[str] = Counter()
    with ThreadPoolExecutor(EVENTS_PER_ROUND) as threads:
        for kill in range(ROUNDS):
            begun = numbers[kill * EVENTS_PER_ROUND :][:EVENTS_PER_ROUND]
            sent = [threads.submit(senders.send, n) for n in begun]
            time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
            engine.kill()
            left.update(left_behind(engine))
            engine.start()
            for future in sent:
                future.result(timeout=15)
    assert left["events"] and left["facts"], "kills hit the moments they are meant to hit"
    assert [run.result(timeout=15) for run in waiters] == [{"n": n} for n in numbers]
    for flow in ("tick", "tock"):
        wait_for(lambda: len(list(client.list(flow=flow, states=["SUCCEEDED"]))) >= len(numbers), flow)  # noqa: B023
        outputs = [client.get(run.run_id).output for run in client.list(flow=flow)]
        assert Counter(outputs) == dict.fromkeys(numbers, 1)
    woken = Counter(line.run_id for line in stage.ledger.refresh() if (line.event, line.path) == ("before", "woken"))
    assert woken == {run.run_id: 1 for run in waiters}
    noted = Counter(line.run_id for line in stage.ledger.lines if (line.event, line.path) == ("before", "note"))
    assert set(noted.values()) == {1} and len(noted) == 2 * len(numbers)
    figure(
        f"{ROUNDS} kills while {len(numbers)} events were sent ({senders.refused} calls got no answer) left behind "
        f"{left['events']} undelivered events and {left['facts']} facts: "
        f"{2 * len(numbers)} runs started once, {len(waiters)} waiters woken once"
    )
