"""What a live body needs of the runtime around it, so that it can be looked at, and tested, without that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

from stepwire._runtime.eager import EagerTasks
from stepwire._runtime.hooks import Hooks
from stepwire._runtime.threads import BranchThreads
from stepwire.codec import Codec
from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import Welcome

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody


class BodyHost(Protocol):
    """What a body needs of the runtime around it."""

    loop: asyncio.AbstractEventLoop
    loop_thread: int
    tasks: EagerTasks
    threads: BranchThreads
    codec: Codec
    limits: Welcome
    hooks: Hooks
    context: Context
    """What bodies inherit: the context the host was started in, never that of the callback that enters them."""

    def touch(self, body: LiveBody) -> None:
        """The body decided something; look at it at the end of this tick. Sets `touched` until then."""

    @property
    def expected(self) -> Mapping[str, object]:
        """Runs with an Execute that came before the body planned its step."""

    def reached(self, body: LiveBody, path: str) -> None:
        """The body planned this step: an Execute may have waited for it."""

    def body_failed(self, body: LiveBody, failure: Failure) -> None:
        """The body cannot go on."""

    def body_gone(self, body: LiveBody) -> None:
        """Something of the live copy is missing; the engine must send a snapshot."""
