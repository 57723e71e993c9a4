"""A disk that is full: nothing is taken that is not kept, everybody is told why, and the engine recovers alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwire.client import RunHandleSync
from stepwire.errors import EngineUnavailable
from stepwire.protocol.failure import ErrorCode
from tests.e2e.faults.insistence import insist
from tests.e2e.faults.truth import family, judge
from tests.e2e.processes import Engine, Stage, wait_for

SPARE_BYTES = (0, 50_000, 200_000, 400_000, 0)
"""Free at the beginning of each cycle: what is refused then is a different write."""
LOAD = "x" * 30_000
RUNS_MAX = 1_000
"""More than the disk can take."""
FILLED_AT_ONCE = 4096
RECOVERY_SECONDS_MAX = 10.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs" + (f": {mounted.stderr.strip()}" if mounted else ""))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, spare: int) -> Path:
    """A file that leaves about `spare` bytes on the disk; the engine may be writing meanwhile."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):  # of no space
            while file.write(bytes(FILLED_AT_ONCE)):
                pass
        file.truncate(max(file.tell() - spare, 0))
    return filler


def health(engine: Engine) -> dict[str, str]:
    try:
        return dict(json.loads(engine.http("/readyz")[1]))
    except urllib.error.HTTPError as refused:
        with refused:
            assert refused.code == 503
            return dict(json.loads(refused.read()))


class Shop:
    """An engine on the small disk, a host, and what clients were told."""

    def __init__(self, stage: Stage, place: Path) -> None:
        self.stage = stage
        self.place = place
        self.engine = stage.engine(db=place / "engine.db", adoption_grace=20, reconnect_grace=20)
        stage.host(self.engine, "host", flows="faults.engine_flows")
        self.client = stage.client(self.engine)
        self.accepted: list[RunHandleSync[Any]] = []

    def start(self, flow: str, *value: str) -> RunHandleSync[Any]:
        """Start a run; if it is accepted, it counts."""
        run = self.client.start(flow, *value, id=f"{len(self.accepted)}")
        self.accepted.append(run)
        return run

    def until_refused(self) -> EngineUnavailable:
        """Start runs until the engine takes no more; what it said then."""
        for _ in range(RUNS_MAX):
            try:
                self.start("carries", LOAD)
            except EngineUnavailable as refused:
                return refused
        raise AssertionError("the disk was never full")

    def fill_up(self, spare: int) -> float:
        """Fill the disk while a step is in progress, free it; how long it took to take calls again."""
        waiting = self.start("waits_at_gate")
        self.stage.gates.arrived(waiting.run_id, "gated")
        filler = fill(self.place, spare)
        refused = self.until_refused()
        assert refused.code is ErrorCode.STORE_FULL and "full" in refused.message and refused.hint
        wait_for(lambda: health(self.engine)["status"] == "store_full", "health to say so")
        self.stage.gates.open(waiting.run_id, "gated")
        wait_for(lambda: self.stage.ledger.count("after", waiting.run_id)["gated"], "the step to end")
        assert self.engine.running.running
        filler.unlink()
        freed = time.monotonic()
        insist(lambda: self.start("carries", LOAD))
        recovered = time.monotonic() - freed
        assert len(waiting.result(timeout=15)) == 2
        return recovered


@pytest.mark.timeout(90)
def test_a_full_disk(stage: Stage, small_disk: Path, figure: Callable[[str], None]) -> None:
    shop = Shop(stage, small_disk)
    recoveries = [shop.fill_up(spare) for spare in SPARE_BYTES]
    for run in shop.accepted:
        assert run.result(timeout=15)
    verdict = judge(family(shop.client, *(run.run_id for run in shop.accepted)), stage.ledger.refresh())
    figure(f"{len(recoveries)} times full: {verdict}; taking calls again {max(recoveries):.2f} s after there was space")
    verdict.assert_kept()
    assert len({run.run_id for run in shop.accepted}) == len(shop.accepted)
    assert max(recoveries) <= RECOVERY_SECONDS_MAX
    assert health(shop.engine)["status"] == "ok" and "Traceback" not in shop.engine.running.said
