"""Bytes <-> protocol values: the only package that maps protobuf, used by both sides.

It maps and checks shape (set enums, one of two, bounds); whether a frame is allowed now is decided by the
session cores. It does no I/O and keeps no state but the open transfers of one stream. This is the hot path:
submessages are filled in place, and presence is tested only where the absence of a field means something.
Rules of framing: `proto/README.md`, "Framing".
"""

from __future__ import annotations

from stepwire.protocol.bounds import cut_text
from stepwire.protocol.wire.engine_frames import EngineFrameDecoder, encode_engine_frame
from stepwire.protocol.wire.host_frames import HostFrameDecoder, encode_host_frame
from stepwire.protocol.wire.payloads import failure_from_pb, failure_to_pb, payload_from_pb, payload_to_pb
from stepwire.protocol.wire.plans import retry_policy_from_pb, retry_policy_to_pb
from stepwire.protocol.wire.scalars import (
    WireError,
    duration_from_pb,
    duration_to_pb,
    timestamp_from_pb,
    timestamp_to_pb,
    traceparent_from_pb,
)
from stepwire.protocol.wire.specs import event_from_pb, event_to_pb

__all__ = [
    "EngineFrameDecoder",
    "HostFrameDecoder",
    "WireError",
    "cut_text",
    "duration_from_pb",
    "duration_to_pb",
    "encode_engine_frame",
    "encode_host_frame",
    "event_from_pb",
    "event_to_pb",
    "failure_from_pb",
    "failure_to_pb",
    "payload_from_pb",
    "payload_to_pb",
    "retry_policy_from_pb",
    "retry_policy_to_pb",
    "timestamp_from_pb",
    "timestamp_to_pb",
    "traceparent_from_pb",
]
