"""Steps that kill whoever executes them: they end after a bound, with a cause that names them; nothing else does."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest

from tests.e2e.processes import QUICK, Stage, wait_for

BOUND = 2
"""Losses of a host that each of them is forgiven. One more may come before: a host that dies of a step which it planned
itself, before anybody heard of the plan, is counted as a body's loss."""
DEATHS = {"exit": 3, "segfault": -signal.SIGSEGV, "abort": -signal.SIGABRT}
HOSTS = len(DEATHS) * (BOUND + 1) + 1
STEPS = 8
CAUSE = re.compile(
    r"step 'deadly' lost its host 2 times in a row, on (h\d+ \(1\), h\d+ \(1\)); "
    r"it probably kills the process that runs it"
)


@pytest.mark.timeout(90)
def test_poison_ends_after_the_bound_and_what_stood_beside_it_goes_on(
    stage: Stage, figure: Callable[[str], None]
) -> None:
    engine = stage.engine(**QUICK, attempts_lost_max=BOUND, suspect_after=BOUND - 1)
    client = stage.client(engine)
    names = [f"h{number}" for number in range(HOSTS)]
    hosts = dict(zip(names, stage.hosts(engine, *names, flows="faults.host_flows"), strict=True))
    beside = client.start("bystander", STEPS)
    wait_for(lambda: len(stage.ledger.of(beside.run_id, "before")) >= STEPS, "the bystanders to be under way")
    killed: set[str] = set()
    for death in DEATHS:
        # One after the other: with a bound of two, a body that is just being entered where another one kills is paused.
        run = client.start("poisoned", death)
        told = str(run.result(timeout=30))
        cause = CAUSE.search(told)
        assert cause is not None, told
        named = set(re.findall(r"h\d+", cause[1]))
        assert {hosts[name].wait() for name in named} == {DEATHS[death]}
        killed |= named
        (step,) = run.get(steps=True).steps
        assert (step.state, step.lost, len(step.attempts)) == ("FAILED", BOUND, 1)
        assert step.attempts[0].failure is not None and step.attempts[0].failure.code.slug == "poison_step"
    assert len(killed) == len(DEATHS) * BOUND, "each of them killed hosts of its own"
    dead = [name for name, process in hosts.items() if not process.running]
    assert len(killed) <= len(dead) < HOSTS
    assert beside.result(timeout=30) == sum(range(STEPS))
    lost = [step.lost for step in beside.get(steps=True).steps]
    figure(f"{len(dead)} hosts killed by {len(DEATHS)} steps; {STEPS} steps beside them lost {sum(lost)}, failed 0")
    assert max(lost) < BOUND
