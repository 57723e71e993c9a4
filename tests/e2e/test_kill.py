"""kill -9 of engine and hosts: the run completes, and no step whose result was acked runs again (MISSION section 8)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.ledger import Line, lost_work, repeats
from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for

STEPS = 60
RESULT = sum(range(STEPS))
KILLS = 20
HOSTS = ("one", "two")


class Chaos:
    """A run of 60 steps on two hosts, and a number of kills at random numbers of completed steps."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage = stage
        self.rng = rng
        self.engine: Engine = stage.engine(**QUICK)
        self.hosts: dict[str, Process] = {name: stage.host(self.engine, name) for name in HOSTS}
        self.killed_at = 0
        self.run = stage.client(self.engine).start("sixty", id="the run")

    def done(self) -> int:
        """Steps that have ended, by the file."""
        return len(self.stage.ledger.count("after", self.run.run_id))

    def points(self) -> list[tuple[int, float]]:
        """After how many steps, and how many milliseconds later."""
        steps = sorted(self.rng.sample(range(STEPS - 1), KILLS))
        return [(number, round(self.rng.uniform(0, 20), 1)) for number in steps]

    def reach(self, steps: int) -> None:
        """Wait for the next point; the run must also have gone on since the last kill."""
        wanted = min(max(steps, self.killed_at + 1), STEPS - 1)
        wait_for(lambda: self.done() >= wanted, f"{wanted} of {STEPS} steps to end", 60)

    def kill_engine(self) -> None:
        self.engine.kill()
        self.killed_at = self.done()
        self.engine.start()

    def kill_host(self, *, of_the_body: bool, with_engine: bool) -> None:
        """Kill a host, together with the engine if `with_engine`, and start what was killed."""
        entered = len(self.bodies())
        name = next(name for name in HOSTS if (name == self.bodies()[-1].host) is of_the_body)
        if with_engine:
            self.engine.kill()
        self.hosts[name].kill()
        self.killed_at = self.done()
        if with_engine:
            self.engine.start()
        self.hosts[name] = self.stage.host(self.engine, name)
        if of_the_body:
            wait_for(lambda: len(self.bodies()) > entered or self.done() == STEPS, "the body to be entered again", 30)

    def bodies(self) -> list[Line]:
        """Every time the flow was entered."""
        return self.stage.ledger.of(self.run.run_id, "body")

    def finish(self) -> None:
        """The run ends with the right result, every step ran, and none after its Ack."""
        assert self.run.result(timeout=60) == RESULT
        lines = self.stage.ledger.refresh()
        assert len({line.path for line in lines if line.event == "after"}) == STEPS
        assert lost_work(lines) == []

    def again(self) -> Counter[str]:
        """Paths of steps that were begun again, with how often."""
        return Counter(line.path for line in repeats(self.stage.ledger.lines))


@pytest.mark.timeout(150)
def test_twenty_kills_of_the_engine(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    chaos = Chaos(stage, rng)
    points = chaos.points()
    print(f"kills of the engine after steps (and ms): {points}")
    for steps, delay in points:
        chaos.reach(steps)
        time.sleep(delay / 1000)  # gate: the kill's own random moment
        chaos.kill_engine()
    chaos.finish()
    again = chaos.again()
    figure(f"{KILLS} kills of the engine, 1 run of {STEPS} steps completed, lost 0, re-executions {again.total()}")
    # Every host stayed, so every attempt that was running must have been adopted.
    assert not again
    assert len({line.pid for line in stage.ledger.lines}) == len(HOSTS)


@pytest.mark.timeout(150)
def test_twenty_kills_of_hosts_and_engine(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    chaos = Chaos(stage, rng)
    kinds = [(of_the_body, with_engine) for of_the_body in (True, False) for with_engine in (True, False)]
    kinds *= KILLS // len(kinds)
    rng.shuffle(kinds)
    points = chaos.points()
    print(f"kills (host of the body?, engine too?): {kinds} after steps (and ms): {points}")
    for (of_the_body, with_engine), (steps, delay) in zip(kinds, points, strict=True):
        chaos.reach(steps)
        time.sleep(delay / 1000)  # gate: the kill's own random moment
        chaos.kill_host(of_the_body=of_the_body, with_engine=with_engine)
    chaos.finish()
    again = chaos.again()
    figure(
        f"{KILLS} kills of a host (every other one with the engine), 1 run of {STEPS} steps completed, lost 0, "
        f"re-executions {again.total()} of steps without Ack {dict(again)}, "
        f"body entered {len(chaos.bodies())} times"
    )
