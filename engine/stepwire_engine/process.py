"""An engine as a process: what signals mean, when it has ended at the latest, its exit codes, and its log.

It builds nothing; that is `app.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from stepwire._event_loop import loop_factory, name_of
from stepwire.logs import formatter_for
from stepwire_engine.app import MEMORY, Addresses, Engine
from stepwire_engine.config import Config
from stepwire_engine.store.base import StoreError
from stepwire_engine.transport.server import ListenError
from stepwire_engine.web.server import AddressUnavailable

_END_SECONDS = 1.7
"""From the end of the drain to that of the process. Whatever hangs then, a disk or a peer, is left as it is."""
_GC_ALLOCATIONS = 50_000
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("stepwire.engine")


def run_engine(
    config: Config, *, insecure_listen: bool = False, on_ready: Callable[[Addresses], None] | None = None
) -> int:
    """Run an engine until SIGTERM or SIGINT; the exit code.

    The first signal drains, the second ends the wait, the third ends the process. It ends within 2 s of the drain
    timeout: 0 if in order, also by a signal while it starts or by a second one; 1 if something hung and it was ended
    by force; else the code of the error that ended it.

    Args:
        insecure_listen: Allow the gRPC port on an address that other machines reach.
        on_ready: Called on the engine's loop when hosts and clients are served.

    Raises:
        ConfigurationError: the configuration asks for an event loop that is not installed.
    """
    loops = loop_factory(config.event_loop)
    set_up_logging(config)
    # What is loaded stays: leave it out of every collection, and collect after more allocations.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 20)
    with asyncio.Runner(loop_factory=loops) as runner:
        return runner.run(_run(config, insecure_listen, on_ready))


class _Ending:
    """Why and when the process ends.

    Args:
        drain_timeout: What attempts in progress get, in seconds.
    """

    def __init__(self, drain_timeout: float) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.failure: StoreError | None = None
        self.ready = False
        self._drain_timeout = drain_timeout
        self._by_force: threading.Timer | None = None

    def signalled(self, name: str) -> None:
        if self.at_once.is_set():
            os._exit(1)
        (self.at_once if self.asked.is_set() else self.asked).set()
        at_once = self.at_once.is_set()
        _log.info("%s: %s", name, "ending now" if at_once else "draining; once more ends now")
        self._end_within(_END_SECONDS + (self._drain_timeout if self.ready and not at_once else 0.0))

    def _end_within(self, seconds: float) -> None:
        """In time, also if the loop, a disk or a peer hangs: what is committed is safe, hosts send the rest again."""
        if self._by_force is not None:
            self._by_force.cancel()
        self._by_force = threading.Timer(seconds, self._force)
        self._by_force.daemon = True
        self._by_force.start()

    def _force(self) -> None:
        _log.warning("the engine is ended by force: something did not end in time")
        # While it starts nothing is in progress, so nothing is cut off.
        os._exit(1 if self.ready else 0)

    def failed(self, error: StoreError) -> None:
        self.failure = error
        self.asked.set()
        self.at_once.set()


async def _run(config: Config, insecure_listen: bool, on_ready: Callable[[Addresses], None] | None) -> int:
    ending = _Ending(config.drain_timeout)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, ending.signalled, number.name)
    try:
        return await _live(config, ending, insecure_listen, on_ready)
    finally:
        # Nothing is left to be hurried. Otherwise a signal that comes now would end the process as if it had failed.
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _live(
    config: Config, ending: _Ending, insecure_listen: bool, on_ready: Callable[[Addresses], None] | None
) -> int:
    engine = Engine(config, on_failed=ending.failed, insecure_listen=insecure_listen)
    try:
        addresses = await engine.start()
    except (StoreError, ListenError, AddressUnavailable) as error:
        return _refused_to_start(error)
    ending.ready = True
    database = config.db if config.db == MEMORY or os.path.isabs(config.db) else os.path.join(".", config.db)
    kind = name_of(asyncio.get_running_loop())
    _log.info("stepwire engine ready  grpc %s  http %s  db %s  loop %s", addresses.grpc, addresses.http, database, kind)
    if on_ready is not None:
        on_ready(addresses)
    asked_early = ending.asked.is_set()
    await ending.asked.wait()
    if ending.failure is None and not asked_early:
        await _drain_unless(ending.at_once, engine, config.drain_timeout)
    await engine.stop()
    # `on_failed` may have been called meanwhile.
    failure: StoreError | None = ending.failure
    if failure is not None:
        return _failed(failure)
    _log.info("stepwire engine stopped")
    return 0


async def _drain_unless(at_once: asyncio.Event, engine: Engine, deadline: float) -> None:
    draining = asyncio.create_task(engine.drain(deadline))
    hurry = asyncio.create_task(at_once.wait())
    await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurry):
        task.cancel()
    await asyncio.gather(draining, hurry, return_exceptions=True)


def _refused_to_start(error: StoreError | ListenError | AddressUnavailable) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def _failed(error: StoreError) -> int:
    print(
        f"error: {error}\n"
        "  why: after this error it is unknown what the database holds, so nothing may go on from memory\n"
        "  next: start the engine again; it reads what was committed, and hosts send the rest again",
        file=sys.stderr,
        flush=True,
    )
    return error.exit_code


# ---- logging


def set_up_logging(config: Config) -> None:
    """Send the process's log to stderr: text on a terminal, JSON otherwise, or as the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter_for(config.log_format, sys.stderr))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log.upper())
    # At level debug it would log every header of a call, and these hold secrets of users.
    logging.getLogger("httpcore").setLevel(logging.INFO)
