"""What steps do, the same for every engine. Only the standard library: peers' own interpreters import it."""

from __future__ import annotations

import asyncio
from typing import Any

OUTPUT = {"order": 17, "state": "accepted", "note": "x" * 56}
"""About 100 bytes as JSON."""
LARGE_BYTES = 64 * 1024
LARGE = "x" * (LARGE_BYTES - 2)
NAP_SECONDS = 0.1


async def no_work() -> dict[str, Any]:
    """The step of most workloads."""
    return OUTPUT


async def nap() -> dict[str, Any]:
    """A step that takes 100 ms and nothing of the machine."""
    await asyncio.sleep(NAP_SECONDS)
    return OUTPUT


async def large_output() -> str:
    """64 KiB as JSON."""
    return LARGE
