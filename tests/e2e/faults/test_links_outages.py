"""Links that break in every way at once, one host behind each, with the default settings of the engine (P10).

A host whose link comes back within the grace executes nothing again and delivers what it had; one whose link
stays away is replaced within 15 s, and what it says later is stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from stepwire import ClientSync
from stepwire.client import RunHandleSync
from tests import evicting
from tests.e2e.faults.proxy import Proxy, Way, proxied
from tests.e2e.ledger import lost_work
from tests.e2e.processes import Engine, Stage, wait_for
from tests.evicting import Entries

RESULT = ["first", "gated", "last"]
ELSEWHERE_SECONDS = 15.0
FLAPS = 4


def closed(proxy: Proxy) -> Iterator[float]:
    """A closed socket: reset, and dials are refused for two seconds."""
    proxy.refuse()
    proxy.cut()
    yield 2.0
    proxy.accept()


def held(*ways: Way) -> Callable[[Proxy], Iterator[float]]:
    """Everything that goes these ways is lost on its first tries, for five seconds."""

    def outage(proxy: Proxy) -> Iterator[float]:
        proxy.hold(*ways)
        yield 5.0
        proxy.heal()

    return outage


def forgotten(proxy: Proxy) -> Iterator[float]:
    """Nothing passes for five seconds, and the connections of before are dead without anybody being told."""
    proxy.hold()
    proxy.forget()
    yield 5.0
    proxy.heal()


def flapping(proxy: Proxy) -> Iterator[float]:
    """A second down, a second up."""
    for _ in range(FLAPS):
        proxy.refuse()
        proxy.cut()
        yield 1.0
        proxy.accept()
        yield 1.0


SHORT: dict[str, Callable[[Proxy], Iterator[float]]] = {
    "closed": closed,
    "held": held(),
    "held-up": held(Way.UP),
    "held-down": held(Way.DOWN),
    "forgotten": forgotten,
    "flapping": flapping,
}
LONG: dict[str, tuple[Way, ...]] = {"gone": (), "gone-up": (Way.UP,), "gone-down": (Way.DOWN,)}


@dataclass
class Links:
    """An engine, a host behind each link, and a run of three steps on each host, its second one at a gate."""

    stage: Stage
    engine: Engine
    client: ClientSync
    proxies: dict[str, Proxy]
    runs: dict[str, RunHandleSync[Any]] = field(default_factory=dict)
    began: float = 0.0

    def place_runs(self) -> None:
        """A body goes to the host that has fewest, so each gets one; which run is whose, the file says."""
        started = [self.client.start("gate_between") for _ in self.proxies]
        for run in started:
            self.stage.gates.arrived(run.run_id, "gated")
            self.runs[self.stage.ledger.of(run.run_id, "body")[0].host] = run
        assert self.runs.keys() == self.proxies.keys()

    def break_links(self) -> None:
        """Everything at once; the steps of the short outages end while their links are down."""
        self.began = time.monotonic()
        for name, ways in LONG.items():
            self.proxies[name].hold(*ways)
        outages = {name: outage(self.proxies[name]) for name, outage in SHORT.items()}
        due = dict.fromkeys(outages, 0.0)
        while due:
            name = min(due, key=lambda name: due[name])
            time.sleep(max(0.0, self.began + due[name] - time.monotonic()))  # gate: an outage lasts as long as it says
            first = due[name] == 0.0
            pause = next(outages[name], None)
            if pause is None:
                del due[name]
                continue
            due[name] += pause
            if first:
                self.stage.gates.open(self.runs[name].run_id, "gated")

    def hosts_connected(self, name: str) -> bool:
        """Its newest stream has not ended, by the log of the engine."""
        said = self.engine.running.said
        return said.rfind(f"host {name} connected") > said.rfind(f"host {name} disconnected")

    def begun(self, name: str) -> dict[str, int]:
        return dict(self.stage.ledger.count("before", self.runs[name].run_id))


@pytest.fixture(scope="module")
def links(shared_stage: Stage) -> Iterator[Links]:
    engine = shared_stage.engine()
    names = (*SHORT, *LONG)
    proxies: dict[str, Proxy] = {}
    opened = [proxied(engine.address) for _ in names]
    try:
        for name, each in zip(names, opened, strict=True):
            proxies[name] = each.__enter__()
            behind: Any = proxies[name]
            shared_stage.hosts(behind, name, wait=False)
        wait_for(lambda: all(f"host {name} connected" in engine.running.said for name in names), "all hosts", 30)
        links = Links(shared_stage, engine, shared_stage.client(engine), proxies)
        links.place_runs()
        links.break_links()
        yield links
    finally:
        for each in opened:
            each.__exit__(None, None, None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SHORT)
def test_a_host_that_returns_within_the_grace_executes_nothing_again(links: Links, name: str) -> None:
    assert links.runs[name].result(timeout=20) == RESULT
    assert links.begun(name) == dict.fromkeys(RESULT, 1)
    bodies = links.stage.ledger.of(links.runs[name].run_id, "body")
    assert evicting.always() or [line.host for line in bodies] == [name], "the body stayed live on its host"
    record = links.runs[name].get(steps=True)
    assert [(step.path, len(step.attempts), step.lost) for step in record.steps] == [(path, 1, 0) for path in RESULT]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LONG)
def test_the_work_of_a_host_that_stays_away_is_elsewhere_within_15_s(
    links: Links, name: str, figure: Callable[[str], None]
) -> None:
    run_id = links.runs[name].run_id
    links.stage.gates.arrived(run_id, "gated", times=2)
    at = [line.at for line in links.stage.ledger.of(run_id, "before") if line.path == "gated"][1]
    figure(f"link {name}: its step began elsewhere after {at - links.began:.1f} s")
    assert at - links.began <= ELSEWHERE_SECONDS


@pytest.mark.timeout(60)
def test_late_results_are_stale_and_applied_once(links: Links, figure: Callable[[str], None]) -> None:
    for name in LONG:
        links.stage.gates.arrived(links.runs[name].run_id, "gated", times=2)
        links.stage.gates.open(links.runs[name].run_id, "gated")
        assert links.runs[name].result(timeout=20) == RESULT
    before = links.engine.metric("stepwire_stale_results_total")
    for name in LONG:
        links.proxies[name].heal()
    wait_for(lambda: links.engine.metric("stepwire_stale_results_total") >= before + len(LONG), "stale results", 20)
    for name in LONG:
        record = links.runs[name].get(steps=True)
        assert [(step.path, len(step.attempts)) for step in record.steps] == [(path, 1) for path in RESULT]
    assert lost_work(links.stage.ledger.refresh()) == []
    figure(f"{len(LONG)} links away for longer than the grace: late results stale, 0 applied twice")


@pytest.mark.timeout(60)
def test_an_engine_that_restarts_behind_the_links_finds_everything_again(
    links: Links, figure: Callable[[str], None]
) -> None:
    """Runs are started into links that pass nothing; then the engine is killed, and the links are whole again."""
    for name in LONG:
        wait_for(lambda name=name: links.hosts_connected(name), f"host {name} to be back", 20)
    stage, client = links.stage, links.client
    waiting = [client.start("gate_between") for _ in links.proxies]
    for run in waiting:
        stage.gates.arrived(run.run_id, "gated")
    for proxy in links.proxies.values():
        proxy.hold()
    unheard = [client.start("gate_between") for _ in links.proxies]
    links.engine.kill()
    for run in waiting:
        stage.gates.open(run.run_id, "gated")  # their results wait at the hosts
    links.engine.start()
    for proxy in links.proxies.values():
        proxy.heal()
    for run in unheard:
        stage.gates.open(run.run_id, "gated")
    for run in waiting + unheard:
        assert run.result(timeout=30) == RESULT
        assert dict(stage.ledger.count("before", run.run_id)) == dict.fromkeys(RESULT, 1)
    assert all(len(stage.ledger.of(run.run_id, "body")) == Entries(1) for run in waiting), "bodies stayed live"
    figure(f"engine killed with {len(waiting)} attempts in progress behind links: re-executions 0")
