"""An engine inside another process, without ports: the same driver, core and store, for `stepwire.testing`.

Hosts connect with a Port of their own and exchange frame values. With a virtual clock nothing happens by
time until the owner moves it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import TracebackType

from stepwire.protocol.frames import Fault, Hello
from stepwire_engine.calls.destinations import LOCAL_NETWORKS
from stepwire_engine.calls.host import CallHost, CallSettings
from stepwire_engine.clock import Clock, VirtualClock
from stepwire_engine.config import secrets_of
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.ports import Attached, Port
from stepwire_engine.store.base import Store
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.telemetry import Telemetry

_NEVER = 1e9
_VIRTUAL_CONFIG = CoreConfig(silence_timeout=_NEVER, adoption_grace=0.0)
"""Under a virtual clock hosts do not beat, so silence says nothing."""


class EmbeddedEngine:
    """An async context manager around one driver.

    Args:
        clock: None: a virtual clock with seed 0.
        config: None: the defaults; under a virtual clock silence never ends a session.
        store: Not open; it must call back on the loop of this engine. None: a new store in memory.
        calls: How `call` steps are made, over real sockets and in real time whatever the clock. None: they may
            reach loopback and private networks too.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        config: CoreConfig | None = None,
        store: Store | None = None,
        calls: CallSettings | None = None,
    ) -> None:
        self.clock: Clock = clock if clock is not None else VirtualClock()
        virtual = isinstance(self.clock, VirtualClock)
        self.config = config or (_VIRTUAL_CONFIG if virtual else CoreConfig())
        self._store = store
        self._call_settings = calls or CallSettings(
            allow=LOCAL_NETWORKS,
            payload_bytes_max=self.config.payload_bytes_max,
            secrets=secrets_of(os.environ),
        )

    async def __aenter__(self) -> EmbeddedEngine:
        loop = asyncio.get_running_loop()

        def notify(call: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(call)

        store = self._store or MemoryStore(notify=notify)
        telemetry = Telemetry(version="embedded", storage="memory")
        steady = not isinstance(self.clock, VirtualClock)
        self.driver = Driver(self.config, store, self.clock, telemetry, steady=steady)
        await self.driver.start()
        self._calls = CallHost(self.driver, self._call_settings)
        self._calls.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.stop()
        await self.driver.stop()

    @property
    def calls_in_progress(self) -> int:
        """HTTP requests of `call` steps whose outcome the driver does not have yet, though it says that it is idle."""
        return self._calls.calls_in_progress

    def connect(self, hello: Hello, port: Port) -> Attached | Fault:
        """Attach an in-process host; further frames go to `driver.receive`."""
        return self.driver.connect(hello, port)

    async def advance(self, seconds: float) -> None:
        """Move the virtual clock on and do what became due. Raises TypeError for a real clock."""
        if not isinstance(self.clock, VirtualClock):
            raise TypeError("only a virtual clock can be moved")
        self.clock.advance(seconds)
        self.driver.tick()
        await self.driver.settled()

    async def advance_to_next_timer(self) -> bool:
        """Jump to the next retry or timeout and do it; False if there is none.

        The owner makes sure that hosts are idle; the engine waits for itself only.
        """
        await self.driver.settled()
        due = self.driver.core.next_timer()
        if due is None:
            return False
        await self.advance(max(0.0, due - self.clock.now().mono))
        return True
