"""What a frame weighs that waits for a slow host. It counts payloads only; the rest of a frame is small beside them."""

from __future__ import annotations

from stepwire.protocol.frames import Advance, EngineFrame
from stepwire.protocol.plan import Plan


def payload_bytes(frame: EngineFrame) -> int:
    """Bytes of the payloads in a frame; asked only for frames that wait behind another."""
    total = 0
    for section in frame.runs:
        total += sum([len(execute.input.data) for execute in section.executes if execute.input is not None])
        if section.advance is not None:
            total += _advance_bytes(section.advance)
    return total


def _advance_bytes(advance: Advance) -> int:
    total = 0 if advance.start is None else len(advance.start.input.data)
    for entry in advance.entries:
        if isinstance(entry, Plan):
            total += sum([len(step.input.data) for step in entry.steps if step.input is not None])
        else:
            total += sum([len(outcome.output.data) for outcome in entry.outcomes if outcome.output is not None])
    return total
