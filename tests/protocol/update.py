"""Adds to the golden files; run from the root: `python -m tests.protocol.update [--baseline]`.

Missing vectors are written and their sums appended; a vector that exists is never written again.
`--baseline` makes the protos of the tree the new baseline; it refuses to if they break the old one.
"""

from __future__ import annotations

import argparse
import hashlib
import json

from google.protobuf import json_format

from stepwire.protocol import wire
from stepwire.protocol.frames import HostFrame
from stepwire.v1 import host_service_pb2
from tests.protocol.protos import BASELINE, VECTORS, current_descriptors
from tests.protocol.test_descriptor_baseline import baseline, breaks
from tests.protocol.vector_values import FRAMES
from tests.protocol.vector_values_alike import ALIKE

SUMS = VECTORS / "SHA256SUMS"
VALUES = FRAMES | ALIKE


def messages_of(name: str) -> list[bytes]:
    """What a vector has: for a receiver without FEATURE_ALIKE, unless the vector is about it."""
    frame, alike = VALUES[name], name in ALIKE
    if isinstance(frame, HostFrame):
        return wire.encode_host_frame(frame, alike=alike)
    return wire.encode_engine_frame(frame, alike=alike)


def write_frames() -> None:
    for name, frame in VALUES.items():
        target = VECTORS / f"{name}.json"
        if target.exists():
            continue
        kind = host_service_pb2.HostFrame if isinstance(frame, HostFrame) else host_service_pb2.EngineFrame
        messages = messages_of(name)
        for number, message in enumerate(messages, 1):
            (VECTORS / f"{name}.{number}.bin").write_bytes(message)
        shown = [json_format.MessageToDict(kind.FromString(message)) for message in messages]
        text = json.dumps({"message": kind.DESCRIPTOR.full_name, "messages": shown}, indent=1, ensure_ascii=False)
        target.write_text(text + "\n", encoding="utf-8")


def append_sums() -> None:
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    listed = {line.split("  ")[1] for line in lines}
    for path in sorted(VECTORS.iterdir()):
        if path != SUMS and path.name not in listed:
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    SUMS.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--baseline", action="store_true")
    if parser.parse_args().baseline:
        now = current_descriptors()
        if BASELINE.exists() and (found := breaks(baseline(), now)):
            raise SystemExit("\n".join(found))
        BASELINE.write_bytes(now.SerializeToString(deterministic=True))
    write_frames()
    append_sums()


if __name__ == "__main__":
    main()
