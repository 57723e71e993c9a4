"""Races, cancelled siblings, limits, wide maps and deadlines in real processes (MISSION S10-S15, I8, O7, O11)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import stepwire
from stepwire.client import StepState
from stepwire.errors import RunFailed
from stepwire.protocol.failure import ErrorCode
from tests.e2e.ledger import lost_work, most_together, repeats
from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for

LEFT, RIGHT = "race/[0]/left", "race/[1]/right"
SECONDS_MAX = 5.0
"""A generous bound for a loaded machine; the promise is 1 s, and the figure is printed."""
HOSTS = ("one", "two")
ITEMS = 1_000


@dataclass
class Pair:
    """An engine with two hosts, shared by the tests of this module; those that kill start what they killed."""

    stage: Stage
    engine: Engine
    hosts: dict[str, Process]
    client: stepwire.ClientSync

    def restart(self, name: str) -> None:
        self.hosts[name].kill()
        self.hosts[name] = self.stage.host(self.engine, name, flows="control_flows")


@pytest.fixture(scope="module")
def pair(shared_stage: Stage) -> Pair:
    engine = shared_stage.engine(**QUICK)
    started = shared_stage.hosts(engine, *HOSTS, flows="control_flows")
    return Pair(shared_stage, engine, dict(zip(HOSTS, started, strict=True)), shared_stage.client(engine))


# ---- race


@pytest.mark.timeout(40)
def test_the_loser_of_a_race_is_cancelled_and_never_run_again(pair: Pair) -> None:
    """The loser's gate stays shut. Engine and host are killed afterwards; the winner's continuation goes on."""
    gates, ledger = pair.stage.gates, pair.stage.ledger
    run = pair.client.start("two_in_a_race")
    gates.arrived(run.run_id, LEFT, RIGHT)
    gates.open(run.run_id, RIGHT)
    gates.arrived(run.run_id, "after")
    wait_for(lambda: ledger.of(run.run_id, "cancelled"), "the loser to be cancelled")
    assert [line.path for line in ledger.of(run.run_id, "cancelled")] == [LEFT]

    pair.engine.kill()
    pair.engine.start()
    pair.restart(ledger.of(run.run_id, "body")[-1].host)
    gates.arrived(run.run_id, "after", times=2)
    gates.open(run.run_id, "after")
    assert run.result(timeout=15) == [1, "right", "after"]
    begun = ledger.count("before", run.run_id)
    assert begun == {LEFT: 1, RIGHT: 1, "race/[1]/right-again": 1, "after": 2}
    assert lost_work(ledger.of(run.run_id, "before", "acked")) == []
    states = {step.path: step.state for step in run.get(steps=True).steps}
    assert states[LEFT] is StepState.CANCELLED


def test_a_race_that_is_over_while_the_engine_is_away(pair: Pair) -> None:
    """Both branches complete without an engine: it commits them in some order, and one wins."""
    run = pair.client.start("two_in_a_race")
    pair.stage.gates.arrived(run.run_id, LEFT, RIGHT)
    pair.engine.kill()
    pair.stage.gates.open(run.run_id, LEFT, RIGHT, "after")
    wait_for(lambda: {LEFT, RIGHT} <= set(pair.stage.ledger.count("after", run.run_id)), "both to end")
    pair.engine.start()
    index, value, _ = run.result(timeout=15)
    assert value == ("left", "right")[index]
    begun = pair.stage.ledger.count("before", run.run_id)
    assert begun[LEFT] == begun[RIGHT] == begun["after"] == 1


# ---- cancelled siblings


@pytest.mark.parametrize("flow", ["one_fails", "one_fails_sync"])
def test_siblings_are_cut_short(pair: Pair, flow: str, figure: Callable[[str], None]) -> None:
    """Alone they would need 10 s, or for ever."""
    wait, fail = "parallel/[0]/wait", "parallel/[0]/fail"
    others = {f"parallel/[{index}]/{name}" for index, name in ((1, "async"), (2, "sync"), (3, "task"))}
    run = pair.client.start(flow)
    wait_for(lambda: {wait, *others} <= set(pair.stage.ledger.count("before", run.run_id)), "all branches to begin")
    pair.stage.gates.open(run.run_id, wait)
    assert run.result(timeout=15) == "['failed', 'cancelled', 'cancelled', 'cancelled']"

    def told() -> dict[str, float]:
        return {line.path: line.at for line in pair.stage.ledger.of(run.run_id, "cancelled")}

    wait_for(lambda: told().keys() == others, "the siblings to be told")
    at = {(line.event, line.path): line.at for line in pair.stage.ledger.of(run.run_id, "before", "after")}
    went_on = at["before", "after"] - at["after", fail]
    siblings = max(told().values()) - at["after", fail]
    assert went_on < SECONDS_MAX and siblings < SECONDS_MAX
    figure(
        f"after the failure the flow goes on in {went_on * 1000:.0f} ms, siblings are told in {siblings * 1000:.0f} ms"
    )


# ---- limits


@pytest.mark.timeout(40)
@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_over_two_hosts(pair: Pair, limit: int, figure: Callable[[str], None]) -> None:
    """Twelve gated steps: exactly so many are at their gates, also over a kill of the engine."""
    gates, ledger = pair.stage.gates, pair.stage.ledger
    run = pair.client.start("at_most", limit)
    for done in range(12):
        at_once = min(limit, 12 - done)
        wait_for(lambda: len(gates.waiting(run.run_id)) == at_once, f"{at_once} steps at their gates")  # noqa: B023
        if done == 6:
            pair.engine.kill()
            pair.engine.start()
        gates.open(run.run_id, gates.waiting(run.run_id)[0])
    assert run.result(timeout=15) == list(range(12))
    lines = ledger.of(run.run_id, "before", "after", "cancelled")
    assert most_together(lines) == limit
    assert repeats(lines) == []
    hosts = Counter(line.host for line in lines if line.event == "before")
    if limit > 1:
        assert set(hosts) == set(HOSTS)
    figure(f"limit {limit}: never more than {most_together(lines)} of 12 steps at once, on hosts {dict(hosts)}")


def test_limits_of_nested_groups(pair: Pair, figure: Callable[[str], None]) -> None:
    """Closures and registered steps under a limit of 4, some of them under one of 2 as well."""
    run = pair.client.start("nested_limit", 4)
    assert run.result(timeout=15) == sum(range(20)) * 3
    lines = pair.stage.ledger.of(run.run_id, "before", "after")
    assert Counter(line.event for line in lines) == {"before": 60, "after": 60}
    most = most_together(lines), most_together([line for line in lines if "inner" in line.path])
    assert most[0] <= 4 and most[1] <= 2
    figure(f"60 steps under limits 4 and 2: at most {most[0]} and {most[1]} at once")


def test_a_map_of_a_thousand_items(pair: Pair, figure: Callable[[str], None]) -> None:
    began = time.monotonic()
    run = pair.client.start("mapped", ITEMS)
    assert run.result(timeout=15) == [ITEMS, sum(range(ITEMS))]
    seconds = time.monotonic() - began
    lines = pair.stage.ledger.of(run.run_id, "before")
    assert Counter(line.path for line in lines) == {f"map/[{i}]/summarize-{i}": 1 for i in range(ITEMS)}
    hosts = Counter(line.host for line in lines)
    assert set(hosts) == set(HOSTS)
    figure(f"{ITEMS} items of 0..24 ms in {seconds:.2f} s, each once; steps per host {dict(hosts)}")


# ---- deadlines


@pytest.mark.parametrize("killed", [False, True], ids=["live", "the engine is killed before"])
def test_the_deadline_of_a_group(pair: Pair, killed: bool) -> None:
    """The branch that ended in time counts, the other one is cancelled; its gate stays shut."""
    quick, stuck = "settle/[0]/quick", "settle/[1]/stuck"
    run = pair.client.start("slow_group", 1.0)
    pair.stage.gates.arrived(run.run_id, stuck)
    pair.stage.acked(run.run_id, quick)
    if killed:
        pair.engine.kill()
        pair.engine.start()
    assert run.result(timeout=15) == ["completed", "cancelled", "after"]
    wait_for(lambda: pair.stage.ledger.of(run.run_id, "cancelled"), "the late branch to be told")
    assert pair.stage.ledger.count("before", run.run_id) == {quick: 1, stuck: 1, "after": 1}
    record = run.get(steps=True)
    assert [group.expired for group in record.groups] == [True]


def test_the_deadline_of_a_step_covers_its_attempts(pair: Pair) -> None:
    run = pair.client.start("slow_step", 1.0)
    assert run.result(timeout=15) == "stuck"
    record = run.get(steps=True)
    assert record.steps[0].state is StepState.FAILED
    begun = pair.stage.ledger.of(run.run_id, "before")
    assert [line.attempt for line in begun] == list(range(1, len(begun) + 1))
    assert len(begun) >= 2


def test_the_deadline_of_a_run_undoes_it(pair: Pair) -> None:
    run = pair.client.start("slow_run")
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=15)
    assert caught.value.failure.code is ErrorCode.RUN_TIMEOUT
    assert pair.stage.ledger.count("after", run.run_id) == {"reserve": 1, "reserve#undo": 1}
    wait_for(lambda: "stuck" in pair.stage.ledger.count("cancelled", run.run_id), "the late step to be told")
