"""kill -9 of the engine at every commit of a history, before its write, before its sync, after it (MISSION section 8).

Nothing that was acked is lost, no result is applied twice, and no attempt runs again, because its host stayed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from stepwire.client import RunHandleSync
from stepwire.errors import RunCancelled
from tests.e2e.faults.fault_engine import COMMIT_POINTS, Plant, Point, environment
from tests.e2e.faults.insistence import insist
from tests.e2e.faults.truth import Verdict, family, judge
from tests.e2e.processes import Engine, Stage, wait_for

ENGINE = ("-m", "tests.e2e.faults.fault_engine")
HOSTS = ("one", "two")
STAMPS = 14
"""That the body of `everything` sees."""
COMMITS_MIN, COMMITS_MAX = 35, 90
"""Of one history; the plants that are left over show that all of its commits were reached."""
RESULT_SECONDS = 200.0
KILLS = 24
KILLED_HEARD = ("killed", "heard")
LIE = 12
"""A commit in the middle of a history."""
LIE_SECONDS = 4.0
SYNCS = (1, 13, 3)
"""In the first process the first one, while the file is made; in the others of the thread that commits."""


class History:
    """Runs on an engine that ends at its plants, with hosts that stay."""

    def __init__(self, stage: Stage, plants: list[Plant], *, dial_quickly: bool = False) -> None:
        self.stage = stage
        self.plants = plants
        self.facts = stage.directory / "facts"
        self.facts.touch()
        self.engine: Engine = stage.engine(
            command=ENGINE, environment=environment(plants, self.facts), adoption_grace=20, reconnect_grace=20
        )
        stage.hosts(self.engine, *HOSTS, flows="faults.engine_flows", E2E_DIAL_QUICKLY="1" if dial_quickly else "")
        self.client = stage.client(self.engine)

    def play(self, *keys: str) -> list[str]:
        """Start, send, cancel; the ids of the runs, which have ended as they must."""
        client = self.client
        runs = [insist(lambda key=key: client.start("everything", key, id=f"everything {key}")) for key in keys]
        errands = [insist(lambda key=key: client.start("errand", key, id=f"errand {key}")) for key in keys]
        for key in keys:
            insist(lambda key=key: client.send("outside", {"key": key}, id=f"outside {key}"))
        for errand in errands:
            wait_for(lambda errand=errand: insist(errand.get).reason == "event", "the errand to wait", RESULT_SECONDS)
            cancel(errand)
        for run in runs:
            self.check_stamps(run.result(timeout=RESULT_SECONDS))
        for errand in errands:
            with pytest.raises(RunCancelled):
                errand.result(timeout=RESULT_SECONDS)
        return [run.run_id for run in (*runs, *errands)]

    def check_stamps(self, stamps: list[str]) -> None:
        """What a body saw are outputs of steps, each once."""
        made = {line.event for line in self.stage.ledger.refresh()}
        assert len(stamps) == len(set(stamps)) == STAMPS
        assert {f"stamp:{stamp}" for stamp in stamps} <= made

    def judge(self, run_ids: list[str]) -> Verdict:
        return judge(insist(lambda: family(self.client, *run_ids)), self.stage.ledger.refresh())

    def judged(self, run_ids: list[str]) -> tuple[Verdict, str]:
        """The verdict, and a figure of it."""
        verdict = self.judge(run_ids)
        recovered = percentiles(recoveries(self.facts))
        return verdict, f"{self.kills} ends of the engine, {verdict}, to the first frame of the next: {recovered}"

    @property
    def kills(self) -> int:
        return self.facts.read_text().count("killed:")


def cancel(run: RunHandleSync[Any]) -> None:
    """Until it is answered; an engine that ended before it answered may have done it."""
    insist(run.cancel)


def recoveries(facts: Path) -> list[float]:
    lines = [line.split() for line in facts.read_text().splitlines()]
    timed = [(fact, float(at)) for fact, at in lines]
    return [
        then - at for (fact, at), (following, then) in pairwise(timed) if (fact[:6], following) == ("killed", "heard")
    ]


def percentiles(seconds: list[float]) -> str:
    """p50 and p99, for a figure."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms"


@pytest.fixture
def strace() -> None:
    """Skips the test where strace cannot make system calls fail."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    works = subprocess.run(
        ["strace", "-qqq", "-o", os.devnull, "-e", "inject=fdatasync:error=EIO", "true"], check=False
    )
    if works.returncode != 0:
        pytest.skip("strace may not trace here")


@pytest.mark.timeout(240)  # 144 restarts: 25 s on an idle machine, but several times that on a loaded one
def test_a_kill_at_every_commit(stage: Stage, figure: Callable[[str], None]) -> None:
    """Each commit three times: the next process is killed at the first commit it makes, at the next point."""
    history = History(stage, [Plant(1, point) for point in COMMIT_POINTS] * COMMITS_MAX, dial_quickly=True)
    verdict, told = history.judged(history.play("a"))
    figure(told)
    verdict.assert_kept()
    assert len(COMMIT_POINTS) * COMMITS_MIN < history.kills < len(history.plants), "every commit was killed"


@pytest.mark.timeout(120)
def test_kills_after_some_commits(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    """Greetings of hosts are commits as well; hosts dial as they do for users."""
    plants = [Plant(rng.randint(1, 8), rng.choice(COMMIT_POINTS), rows_only=False) for _ in range(KILLS)]
    print("plants:", *plants)
    history = History(stage, plants)
    verdict, told = history.judged(history.play("a", "b"))
    figure(told)
    verdict.assert_kept()
    assert history.kills == KILLS


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("strace")
def test_kills_between_write_and_sync(stage: Stage, figure: Callable[[str], None]) -> None:
    """What was written, but not synced, may be there after a restart, although nobody was told."""
    history = History(stage, [Plant(number, Point.IN_SYNC) for number in SYNCS])
    verdict = history.judge(history.play("a"))
    figure(f"{history.kills} ends of the engine: {verdict}")
    verdict.assert_kept()
    assert history.kills == len(SYNCS)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("strace")
def test_syncs_that_fail(stage: Stage, figure: Callable[[str], None]) -> None:
    """The engine ends with 74, because nobody knows what the disk has; the restart decides, with one run per key."""
    history = History(stage, [Plant(number, Point.SYNC_FAILS) for number in SYNCS])
    verdict = history.judge(history.play("a"))
    figure(f"{history.kills} ends of the engine: {verdict}")
    verdict.assert_kept()
    assert history.kills == len(SYNCS), "each of them ended with 74"
    assert len(list(history.client.list(flow="everything"))) == 1
    said = history.engine.running.said
    assert said.count("disk I/O error") >= len(SYNCS) and "Traceback" not in said


@pytest.mark.timeout(120)
def test_a_store_that_lies_is_seen(stage: Stage) -> None:
    """The tests above are not blind: after a commit that was reported and not made, a step runs again, or none does."""
    history = History(stage, [Plant(LIE, Point.LIES)])
    run = insist(lambda: history.client.start("everything", "a", id="everything a"))
    wait_for(lambda: history.kills, "the engine to end")
    with pytest.raises(AssertionError) as seen:
        wait_for(lambda: insist(run.get).reason == "event", "the run to go on", LIE_SECONDS)
        history.judge([run.run_id]).assert_kept()
    print("seen:", seen.value)
