"""Payloads over the inline limit travel as chunks and come back byte for byte (MISSION P14)."""

from __future__ import annotations

import random
import string
import zlib

import pytest

from stepwire.protocol import limits
from tests.e2e.processes import Stage

MIB = 1024 * 1024


def test_a_registered_step_with_a_mebibyte_in_and_out(stage: Stage, rng: random.Random) -> None:
    """Two such steps on two hosts; the outputs come back to the host of the body."""
    engine = stage.engine()
    for name in ("one", "two"):
        stage.host(engine, name)
    text = "".join(rng.choices(string.ascii_letters, k=MIB - 16))
    run = stage.client(engine).start("large_task", text)
    assert run.result(timeout=18) == "same"
    assert run.get().input == text
    assert sorted(stage.ledger.count("before", run.run_id).items()) == [
        ("parallel/[0]/one", 1),
        ("parallel/[1]/two", 1),
    ]


def test_a_flow_result_of_three_mebibytes(stage: Stage) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    client = stage.client(engine)
    run = client.start("flow_output", 3 * MIB)
    assert run.result(timeout=18) == "x" * 3 * MIB
    engine.kill()
    engine.start()
    assert client.handle(run.run_id).result(timeout=18) == "x" * 3 * MIB


@pytest.mark.timeout(60)
def test_a_group_of_two_hundred_outputs_just_over_the_inline_limit(stage: Stage) -> None:
    members, size = 200, limits.INLINE_BYTES_MAX + 1
    expected = [crc_of(index, size) for index in range(members)]
    engine = stage.engine()
    stage.host(engine, "live")
    run = stage.client(engine).start("large_group", {"members": members, "size": size})
    assert run.result(timeout=40) == expected
    paths = {f"parallel/[{index}]/part": 1 for index in range(members)}
    assert stage.ledger.count("before", run.run_id) == paths


@pytest.mark.timeout(60)
def test_a_snapshot_of_two_hundred_large_outputs(stage: Stage) -> None:
    """The body is thrown away at the release, so all outputs travel to the host again."""
    members, size = 200, limits.INLINE_BYTES_MAX + 1
    engine = stage.engine()
    stage.host(engine, "replaying", replay=True)
    run = stage.client(engine).start("large_group", {"members": members, "size": size})
    assert run.result(timeout=40) == [crc_of(index, size) for index in range(members)]
    assert len(stage.ledger.of(run.run_id, "body")) == 2
    assert max(stage.ledger.count("before", run.run_id).values()) == 1


def crc_of(index: int, size: int) -> int:
    """Of the output that member `index` of the flow returns."""
    head = f"{index}:"
    return zlib.crc32((head + "abcdefghij"[index % 10] * (size - len(head))).encode())
