"""Golden vectors: old messages keep their meaning, and old vectors are never edited.

For other languages: each `NAME.json` shows the messages of one frame in protobuf's JSON form, `NAME.N.bin` are
their bytes. The expected values of this SDK are in `vector_values.py` and `vector_values_alike.py`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from google.protobuf import json_format

from stepwire.protocol import wire
from stepwire.protocol.frames import HostFrame
from stepwire.v1 import host_service_pb2
from tests.protocol.protos import ROOT, VECTORS
from tests.protocol.update import SUMS, VALUES, messages_of


def bins(name: str) -> list[bytes]:
    count = len(list(VECTORS.glob(f"{name}.*.bin")))
    return [(VECTORS / f"{name}.{number}.bin").read_bytes() for number in range(1, count + 1)]


@pytest.mark.parametrize("name", VALUES)
def test_bytes_decode_to_the_value(name: str) -> None:
    host = isinstance(VALUES[name], HostFrame)
    decoder = wire.HostFrameDecoder() if host else wire.EngineFrameDecoder()
    *pieces, last = bins(name)
    assert [decoder.decode(piece) for piece in pieces] == [None] * len(pieces)
    assert decoder.decode(last) == VALUES[name]


@pytest.mark.parametrize("name", VALUES)
def test_the_value_encodes_to_the_same_messages(name: str) -> None:
    shown = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    kind = getattr(host_service_pb2, shown["message"].rpartition(".")[2])
    expected = [json_format.ParseDict(message, kind()) for message in shown["messages"]]
    assert [kind.FromString(message) for message in bins(name)] == expected
    if name != "host-chunked-frame":  # pieces of serialized bytes, which protobuf does not promise to repeat
        assert [kind.FromString(message) for message in messages_of(name)] == expected


def test_every_frame_vector_has_a_value() -> None:
    assert {path.name.partition(".")[0] for path in VECTORS.glob("*.bin")} == VALUES.keys()


def test_vectors_are_what_they_were() -> None:
    listed = {name: digest for digest, name in (line.split("  ") for line in SUMS.read_text().splitlines())}
    present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VECTORS.iterdir() if path != SUMS}
    assert present == listed, "vectors are append-only; `python -m tests.protocol.update` adds new ones"


def test_the_list_of_sums_only_grows() -> None:
    shown = subprocess.run(
        ["git", "show", f"HEAD:{SUMS.relative_to(ROOT).as_posix()}"], cwd=ROOT, capture_output=True, text=True
    )
    if shown.returncode:
        pytest.skip("the list is not in the history yet, or there is no git")
    now = SUMS.read_text().splitlines()
    before = shown.stdout.splitlines()
    assert now[: len(before)] == before
