"""kill -9 of engine and hosts: the run completes, and no step whose result was acked runs again (MISSION section 8)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.ledger import Line, lost_work, repeats
from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for

STEPS = 60
RESULT = sum(range(STEPS))
KILLS = 20
HOSTS = ("one", "two")


class Chaos:
    """A run of 60 steps on two hosts that is killed after random numbers of steps.

    Its steps are behind gates that let no more pass than the next kill needs: the run cannot be over, or far
    ahead, while processes start again, and those that wait at their gates are attempts that a kill interrupts.
    """

    def __init__(self, stage: Stage, rng: random.Random, **settings: Any) -> None:
        self.stage = stage
        self.engine: Engine = stage.engine(**QUICK | settings)
        self.hosts: dict[str, Process] = {name: stage.host(self.engine, name) for name in HOSTS}
        self.run = stage.client(self.engine).start("sixty", id="the run")
        self.allowed = 0
        steps = sorted(rng.sample(range(1, STEPS), KILLS))
        self.points = [(number, round(rng.uniform(0, 30), 1)) for number in steps]
        """After how many steps, and how many milliseconds after the last but one of them has ended."""

    def reach(self, steps: int, delay_ms: float) -> None:
        self._allow(steps)
        wait_for(lambda: self.bodies() and self.done() >= steps - 1, f"{steps} of {STEPS} steps to end", 60)
        time.sleep(delay_ms / 1000)  # gate: the kill's own random moment

    def done(self) -> int:
        """Steps that have ended, by the file."""
        return len(self.stage.ledger.count("after", self.run.run_id))

    def _allow(self, steps: int) -> None:
        self.stage.gates.allow(self.run.run_id, steps - self.allowed)
        self.allowed = steps

    def kill_engine(self) -> None:
        self.engine.kill()
        self.engine.start()

    def kill_host(self, *, of_the_body: bool, with_engine: bool) -> None:
        """Kill a host, together with the engine if `with_engine`, and start what was killed."""
        entered = len(self.bodies())
        name = next(name for name in HOSTS if (name == self.bodies()[-1].host) is of_the_body)
        if with_engine:
            self.engine.kill()
        self.hosts[name].kill()
        if with_engine:
            self.engine.start()
        self.hosts[name] = self.stage.host(self.engine, name)
        if of_the_body:
            wait_for(lambda: len(self.bodies()) > entered, "the body to be entered again", 30)

    def bodies(self) -> list[Line]:
        """Every time the flow was entered."""
        return self.stage.ledger.of(self.run.run_id, "body")

    def finish(self) -> None:
        """The run ends with the right result, every step ran, and none after its Ack."""
        self._allow(STEPS)
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
    print(f"kills of the engine after steps (and ms): {chaos.points}")
    for steps, delay in chaos.points:
        chaos.reach(steps, delay)
        chaos.kill_engine()
    chaos.finish()
    again = chaos.again()
    figure(f"{KILLS} kills of the engine, 1 run of {STEPS} steps completed, lost 0, re-executions {again.total()}")
    # Every host stayed, so every attempt that was running must have been adopted.
    assert not again
    worked = {(line.host, line.pid) for line in stage.ledger.lines}
    assert len(worked) == len({host for host, _ in worked}), "each host is still the process it was"


@pytest.mark.timeout(150)
def test_twenty_kills_of_hosts_and_engine(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    # What a killed host executed begins again after this time; the other host is back long before.
    chaos = Chaos(stage, rng, adoption_grace=1)
    kinds = [(of_the_body, with_engine) for of_the_body in (True, False) for with_engine in (True, False)]
    kinds *= KILLS // len(kinds)
    rng.shuffle(kinds)
    print(f"kills (host of the body?, engine too?): {kinds} after steps (and ms): {chaos.points}")
    for (of_the_body, with_engine), (steps, delay) in zip(kinds, chaos.points, strict=True):
        chaos.reach(steps, delay)
        chaos.kill_host(of_the_body=of_the_body, with_engine=with_engine)
    chaos.finish()
    again = chaos.again()
    figure(
        f"{KILLS} kills of a host (every other one with the engine), 1 run of {STEPS} steps completed, lost 0, "
        f"re-executions {again.total()} of steps without Ack {dict(again)}, "
        f"body entered {len(chaos.bodies())} times"
    )
