"""WAIT finishes a, x, b, y and RACE finishes a, b, x, y (MISSION I9, I10): live and by replay, async and sync.

"Order" is that of completion, and every step is gated, so nothing depends on how long anything takes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepwire.client import RunHandleSync
from tests import evicting
from tests.e2e.processes import Stage, wait_for

REPETITIONS = 50
A, B, X, Y = "parallel/[0]/a", "parallel/[0]/b", "parallel/[1]/x", "parallel/[1]/y"
FLOWS = ("two_by_two", "two_by_two_sync")


class Road:
    """One engine with one host, live or replaying at every release."""

    def __init__(self, stage: Stage, replay: bool) -> None:
        self.stage = stage
        self.replay = replay or evicting.always()
        name = "replaying" if replay else "live"
        engine = stage.engine(f"engine-{name}")
        stage.host(engine, name, replay=replay)
        self.client = stage.client(engine)

    def wait_run(self, flow: str) -> RunHandleSync[list[list[str]]]:
        """x is shut until a is done: b may not begin before x is done."""
        gates, run = self.stage.gates, self.client.start(flow, "WAIT")
        gates.arrived(run.run_id, A, X)
        gates.open(run.run_id, A)
        # a is committed and b could begin now, if WAIT did not wait for x.
        self.stage.acked(run.run_id, A)
        assert gates.waiting(run.run_id) == [X]
        gates.open(run.run_id, X)
        gates.arrived(run.run_id, B, Y)
        gates.open(run.run_id, B)
        self.stage.acked(run.run_id, B)
        gates.open(run.run_id, Y)
        return run

    def race_run(self, flow: str) -> RunHandleSync[list[list[str]]]:
        """x is shut until b is done: b may not wait for x."""
        gates, run = self.stage.gates, self.client.start(flow, "RACE")
        gates.arrived(run.run_id, A, X)
        for path, following in ((A, B), (B, None), (X, Y)):
            gates.open(run.run_id, path)
            self.stage.acked(run.run_id, path)
            if following is not None:
                gates.arrived(run.run_id, following)
            elif self.replay:
                # Otherwise the next outcome may come in the same snapshot as this one.
                wait_for(lambda: len(self.stage.ledger.of(run.run_id, "body")) >= 3, "the body to be entered again")
        gates.open(run.run_id, Y)
        return run


@pytest.fixture(scope="module", params=["live", "replay"])
def road(request: pytest.FixtureRequest, shared_stage: Stage) -> Road:
    return Road(shared_stage, request.param == "replay")


EXPECTED = {"WAIT": [A, X, B, Y], "RACE": [A, B, X, Y]}
ADVANCES_MAX = {"WAIT": 3, "RACE": 5}
"""d + 1 and s + 1 (DESIGN 4)."""
RELEASES = {"WAIT": 2, "RACE": 4}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
@pytest.mark.parametrize("flow", FLOWS)
def test_fast_and_slow(road: Road, flow: str, mode: str, figure: Callable[[str], None]) -> None:
    entries = 0
    for repetition in range(REPETITIONS):
        run = road.wait_run(flow) if mode == "WAIT" else road.race_run(flow)
        assert run.result(timeout=15) == [["a", "b"], ["x", "y"]]
        lines = road.stage.ledger.of(run.run_id, "before", "after")
        after = [line.path for line in lines if line.event == "after"]
        assert after == EXPECTED[mode], f"repetition {repetition}"
        assert sorted(line.path for line in lines if line.event == "before") == sorted([A, B, X, Y])
        if mode == "WAIT":
            order = [(line.event, line.path) for line in lines]
            assert order.index(("before", B)) > order.index(("after", X))
        entered = len(road.stage.ledger.of(run.run_id, "body"))
        entries += entered
        stats = run.get().stats
        assert stats.executes + stats.host_starts == 4
        if road.replay:
            # A plain flow whose thread is still on its way when a release comes gets it there.
            releases = 1 if flow.endswith("_sync") else RELEASES[mode]
            assert entered > releases, "every release is reached by replay"
        else:
            assert entered == stats.body_entries == 1
            assert stats.advances <= ADVANCES_MAX[mode]
    figure(f"{REPETITIONS} runs, 0 deviations, body entered {entries} times")


@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_repeated_names_in_two_branches(road: Road, mode: str) -> None:
    """MISSION 1.3: the names count per branch, every callback runs exactly once."""
    run = road.client.start("repeated_names", mode)
    assert run.result(timeout=15) == [["b1-first", "b1-second"], ["b2-first", "b2-second"]]
    paths = [f"parallel/[{branch}]/work{n}" for branch in (0, 1) for n in ("", "#2")]
    assert road.stage.ledger.count("before", run.run_id) == dict.fromkeys(paths, 1)
