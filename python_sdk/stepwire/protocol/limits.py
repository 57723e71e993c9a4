"""Limits and versions of the protocol. Sizes in bytes; the same values on both sides (DESIGN 5, MISSION P14)."""

from __future__ import annotations

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
"""Default limit of one payload; configurable up to 64 MiB."""
PAYLOAD_BYTES_READ_MAX = 64 * 1024 * 1024
"""Longest payload that a receiver takes in before it says which limit of the run was exceeded."""
INLINE_BYTES_MAX = 64 * 1024
"""Larger payloads travel as chunks and live in the blobs table."""
CHUNK_BYTES_MAX = 128 * 1024
FRAME_BYTES_TARGET = 256 * 1024
"""Writers cut frames at about this size."""
MESSAGE_BYTES_MAX = 1024 * 1024 + 64 * 1024
"""gRPC message limit of both sides."""
NAME_BYTES_MAX = 256
INSTANCE_ID_BYTES_MAX = 512
"""Longest id of a host process: the name of its service fits, and what makes it its own."""
STEPS_PER_RUN_MAX = 10_000
BRANCHES_PER_GROUP_MAX = 10_000
GROUP_DEPTH_MAX = 32
PATH_BYTES_MAX = 16 * 1024
"""Longest path: 32 levels of groups, branches and steps with the longest names."""
FRAME_BYTES_MAX = 320 * 1024 * 1024
"""Longest frame that may travel as chunks: a release of a run with the largest state (256 MiB) fits."""
TRANSFER_BYTES_OPEN_MAX = 512 * 1024 * 1024
"""Bytes of unfinished or unnamed transfers that a receiver keeps for one stream."""
TRANSFERS_OPEN_MAX = 4096
"""Unfinished or unnamed transfers that a receiver keeps for one stream."""
MESSAGE_TEXT_BYTES_MAX = 8 * 1024
"""Longest message of a failure or fault; senders cut the middle."""
LOG_MESSAGE_BYTES_MAX = 8 * 1024
"""Longest text of a log line, with its traceback; senders cut the middle."""
DURATION_SECONDS_MAX = 100 * 365.25 * 24 * 3600
"""Longest duration on the wire: 100 years."""
EVENT_ID_BYTES_MAX = 256
"""Longest id of an event, and longest idempotency key of an invoked run."""
MATCH_BYTES_MAX = 1024
"""Longest JMESPath expression of a wait or a trigger."""
EVENTS_PER_STEP_MAX = 100
"""Events that one step sends."""
TRIGGERS_PER_FLOW_MAX = 64
URL_BYTES_MAX = 8 * 1024
HEADERS_MAX = 100
"""Headers of one HTTP request."""
HEADER_VALUE_BYTES_MAX = 8 * 1024
METHOD_BYTES_MAX = 32
"""Longest method of an HTTP request."""
AHEAD_MAX = 8
"""Executes that the SDK's hosts keep beyond their slots, and never more than slots: what short steps use up while one
round trip to the engine lasts. More would only wait, perhaps while another host is free."""
AHEAD_SECONDS = 0.1
"""What has waited so long for a slot goes back to the engine: far below the grace after which that asks for it."""
UINT32_MAX = 2**32 - 1
"""Largest number of the wire's smaller integers; what may exceed it is clamped by the sender."""
