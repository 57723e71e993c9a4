"""Which event loop a process of its own runs on: uvloop if it is installed, unless somebody says otherwise.

Services that are hosts as well never come here: their loop is theirs. Nothing depends on uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stepwire.errors import ConfigurationError

CHOICES = ("auto", "asyncio", "uvloop")
"""auto: uvloop if it is installed."""
EVENT_LOOP_ENV = "STEPWIRE_EVENT_LOOP"
"""Read by hosts and by the engine."""
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(choice: str) -> LoopFactory | None:
    """What makes the loop, for asyncio.Runner; None: asyncio's own.

    Args:
        choice: Of CHOICES.

    Raises:
        ConfigurationError: there is no such choice, or uvloop is asked for and is not installed.
    """
    if choice not in CHOICES:
        raise ConfigurationError(f"the event loop is one of {', '.join(CHOICES)}, not {choice!r}")
    if choice == "asyncio":
        return None
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        if choice == "uvloop":
            raise ConfigurationError(
                f"the event loop uvloop cannot be imported: {error}",
                hint="pip install 'stepwire[uvloop]', or take the event loop auto",
            ) from None
        return None
    factory: LoopFactory = uvloop.new_event_loop
    return factory


def name_of(loop: asyncio.AbstractEventLoop) -> str:
    """Which kind of loop it is: the package it comes from."""
    return type(loop).__module__.partition(".")[0]
