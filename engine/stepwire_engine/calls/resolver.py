"""Names to addresses, on threads of its own.

The system's resolver blocks and cannot be stopped. The loop's pool would fill up with lookups that hang, and with it
the reads of the store; and a process must be able to end while one hangs, so these threads are daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable

from stepwire_engine.calls.exchange import invalid, unanswered

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) to the addresses to try, in order. Raises CallFailed."""
LOOKUPS_MAX = 16
"""Lookups at once, those included that nobody waits for any more."""


class Resolver:
    """The system's resolver without blocking the loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(LOOKUPS_MAX)

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Raises CallFailed: there are none."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def tell(addresses: list[str], error: Exception | None) -> None:
            self._free.release()
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(addresses)

        def look_up() -> None:
            addresses: list[str] = []
            problem: Exception | None = None
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(entry[4][0]) for entry in entries]
            except OSError as error:
                problem = unanswered(f"{host}: {error.strerror or error}")
            except UnicodeError:
                problem = invalid(f"{host[:256]!r} is no name of a host")
            except Exception as error:
                problem = error  # A defect; whoever waits must not wait for ever.
            with contextlib.suppress(RuntimeError):  # The loop was closed; nobody waits.
                loop.call_soon_threadsafe(tell, addresses, problem)

        try:
            threading.Thread(target=look_up, name="stepwire-resolve", daemon=True).start()
        except RuntimeError:
            self._free.release()  # No thread, no lookup.
            raise
        return await found
