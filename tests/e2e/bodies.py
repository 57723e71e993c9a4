"""What flows of the end-to-end tests are made of: the ledger's pen, and step bodies that write in it.

Every step body writes `before` and `after` lines around what it does, see `ledger.py`. Imported in host processes only;
each module of flows has a Host of its own.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from stepwire import Context, ContextSync
from tests.e2e import observed
from tests.e2e.gates import pass_gate, pass_gate_sync
from tests.e2e.ledger import Pen

pen = Pen.from_environment()
observed.observe(pen)


def enter(ctx: Context | ContextSync) -> None:
    """User code of a flow was entered."""
    pen.write("body", ctx.run_id, "-", 1)


async def gated(value: Any) -> Any:
    with pen.attempt() as key:
        await pass_gate(key)
    return value


def gated_sync(value: Any) -> Any:
    with pen.attempt() as key:
        pass_gate_sync(key)
    return value


def told(value: Any) -> Any:
    with pen.attempt():
        return value


def refused(reason: str) -> None:
    """Fails."""
    with pen.attempt():
        pass
    raise ValueError(reason)


async def dawdle(value: int) -> int:
    """A step that takes 0..24 ms, by its path."""
    with pen.attempt() as key:
        await asyncio.sleep(zlib.crc32(key.encode()) % 25 / 1000)  # gate: a step that takes time
    return value
