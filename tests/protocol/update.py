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
from stepwire.protocol.frames import EngineFrame, HostFrame
from stepwire.v1 import host_service_pb2
from tests.protocol.protos import BASELINE, VECTORS, current_descriptors
from tests.protocol.test_descriptor_baseline import baseline, breaks
from tests.protocol.vector_values import FRAMES

SUMS = VECTORS / "SHA256SUMS"


def messages_of(frame: HostFrame | EngineFrame) -> list[bytes]:
    return wire.encode_host_frame(frame) if isinstance(frame, HostFrame) else wire.encode_engine_frame(frame)


def write_frames() -> None:
    for name, frame in FRAMES.items():
        target = VECTORS / f"{name}.json"
        if target.exists():
            continue
        kind = host_service_pb2.HostFrame if isinstance(frame, HostFrame) else host_service_pb2.EngineFrame
        messages = messages_of(frame)
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
