"""The composition root: the one place that builds the engine's parts, and the order they start and stop in.

Start: store and recovery, HTTP, gRPC, the host for calls, ready. Stop: no new work, attempts in progress, calls
given back, last words to hosts, store, ports. Every way to end leaves durable state that the next engine takes over.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from stepwire_engine.calls.host import CallHost, CallSettings
from stepwire_engine.clock import SystemClock
from stepwire_engine.config import Config
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.runs import RunBounds
from stepwire_engine.store.base import Store, StoreError
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.telemetry import Telemetry, metrics_registry
from stepwire_engine.transport import host_service, run_service
from stepwire_engine.transport.server import GrpcServer, ListenError, authority
from stepwire_engine.web.health import Health
from stepwire_engine.web.server import AddressUnavailable, HttpServer

MEMORY = ":memory:"
"""As `db`: keep everything in memory and forget it at the end."""
_GRACE_SECONDS = 0.5
_GC_ALLOCATIONS = 20_000
"""For calls in progress when the ports close; streams of hosts have ended by then."""
_REF_LENGTH = 12
_log = logging.getLogger("stepwire.engine")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started engine listens, as `host:port`."""

    grpc: str
    http: str


class Engine:
    """All parts of one engine process, on one loop.

    Args:
        config: Everything that can be set.
        on_failed: Told that the store failed; the process must end with the error's `exit_code`.
        insecure_listen: Allow the gRPC port on an address that other machines reach.
    """

    def __init__(
        self, config: Config, *, on_failed: Callable[[StoreError], None], insecure_listen: bool = False
    ) -> None:
        self._config = config
        self._started = False
        self._version = metadata.version("stepwire") if _is_installed() else "0"
        clock = SystemClock()
        memory = config.db == MEMORY
        self._telemetry = telemetry = Telemetry(version=self._version, storage="memory" if memory else "sqlite")
        loop = asyncio.get_running_loop()

        def notify(call: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(call)

        store: Store
        if memory:
            store = MemoryStore(notify=notify)
        else:
            store = SqliteStore(
                config.db, notify=notify, on_failed=self._store_failed, observe_commit=self._observe_commit
            )
        self.driver = Driver(
            config.core,
            store,
            clock,
            telemetry,
            bounds=RunBounds(runs_in_memory_max=config.runs_in_memory_max, payload_bytes_max=config.payload_bytes_max),
            sessions_max=config.sessions_max,
            on_failed=on_failed,
        )
        self._calls: CallHost | None = None
        self._insecure_listen = insecure_listen
        self._new_ref = lambda: clock.run_id()[-_REF_LENGTH:]
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None

    def _store_failed(self, error: StoreError) -> None:
        self.driver.store_failed(error)

    def _observe_commit(self, seconds: float, units: int, size: int) -> None:
        self.driver.commits.observe(seconds, units, size)

    def health(self) -> Health:
        """For probes."""
        failure = self.driver.store_failure
        reason = "the outcome of a commit is unknown" if failure else "" if self.driver.accepting else "no space left"
        return Health(self._version, self._started, self.driver.draining, reason if self._started else "")

    async def start(self) -> Addresses:
        """Returns when hosts and clients are served. Raises StoreError, ListenError, AddressUnavailable."""
        config, driver = self._config, self.driver
        await driver.start()
        try:
            calls = run_service.RunService(
                driver.runs, payload_bytes_max=config.payload_bytes_max, new_ref=self._new_ref
            )
            hosts = host_service.HostService(
                driver,
                self._telemetry,
                new_ref=self._new_ref,
                bounds=host_service.StreamBounds(payload_bytes_max=config.payload_bytes_max),
            )
            self._grpc = GrpcServer(
                config.grpc_host,
                config.grpc_port,
                [(host_service.SERVICE, hosts.handler()), (run_service.SERVICE, calls.handler())],
                payload_bytes_max=config.payload_bytes_max,
                sessions_max=config.sessions_max,
                insecure_listen=self._insecure_listen,
            )
            self._http = HttpServer(
                config.http_host,
                config.http_port,
                health=self.health,
                registry=metrics_registry(self._telemetry),
            )
            await self._http.start()
            await self._grpc.start()
            if config.call_slots:
                self._calls = CallHost(driver, _call_settings(config))
                self._calls.start()
        except BaseException:
            await self.stop()
            raise
        self._started = True
        return Addresses(authority(config.grpc_host, self._grpc.port), authority(config.http_host, self._http.port))

    async def drain(self, deadline: float) -> None:
        """Take no new work and wait for attempts in progress, at most `deadline` seconds."""
        if self._grpc is not None:
            await self._grpc.drain()
        await self.driver.drain(deadline)

    async def stop(self) -> None:
        """End at once and in order."""
        if self._calls is not None:
            await self._calls.stop()
        await self.driver.stop()
        if self._grpc is not None:
            await self._grpc.stop(_GRACE_SECONDS if self._started else 0.0)
        if self._http is not None and self._started:
            await self._http.stop()


def _call_settings(config: Config) -> CallSettings:
    return CallSettings(
        allow=config.call_allow,
        slots=config.call_slots,
        response_bytes_max=config.call_response_bytes_max,
        payload_bytes_max=config.payload_bytes_max,
        timeout_max=config.call_timeout_max,
    )


# ---- the process


def run_engine(
    config: Config, *, insecure_listen: bool = False, on_ready: Callable[[Addresses], None] | None = None
) -> int:
    """Run an engine until SIGTERM or SIGINT; the exit code.

    The first signal drains, the second ends the wait, the third ends the process.

    Args:
        insecure_listen: Allow the gRPC port on an address that other machines reach.
        on_ready: Called on the engine's loop when hosts and clients are served.
    """
    set_up_logging(config)
    # What is loaded stays: leave it out of every collection, and collect after more allocations.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 20)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(config, insecure_listen, on_ready))


class _Ending:
    """Why and when the process ends."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.failure: StoreError | None = None

    def signalled(self, name: str) -> None:
        if self.at_once.is_set():
            os._exit(1)
        (self.at_once if self.asked.is_set() else self.asked).set()
        _log.info("%s: %s", name, "ending now" if self.at_once.is_set() else "draining; once more ends now")

    def failed(self, error: StoreError) -> None:
        self.failure = error
        self.asked.set()
        self.at_once.set()


async def _run(config: Config, insecure_listen: bool, on_ready: Callable[[Addresses], None] | None) -> int:
    ending = _Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.signalled, number.name)
    engine = Engine(config, on_failed=ending.failed, insecure_listen=insecure_listen)
    try:
        addresses = await engine.start()
    except (StoreError, ListenError, AddressUnavailable) as error:
        return _refused_to_start(error)
    database = config.db if config.db == MEMORY or os.path.isabs(config.db) else os.path.join(".", config.db)
    _log.info("stepwire engine ready  grpc %s  http %s  db %s", addresses.grpc, addresses.http, database)
    if on_ready is not None:
        on_ready(addresses)
    await ending.asked.wait()
    if ending.failure is None:
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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's if it is installed; nothing depends on it."""
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _is_installed() -> bool:
    """False in a source tree that was never installed."""
    try:
        metadata.version("stepwire")
    except metadata.PackageNotFoundError:
        return False
    return True


# ---- logging


class _Lines(logging.Formatter):
    """One line per event for people."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{at}.{int(record.msecs):03d} {record.levelname.lower():<8} {record.getMessage()}"
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Json(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


def set_up_logging(config: Config) -> None:
    """Send the process's log to stderr: text on a terminal, JSON otherwise, or as the configuration says."""
    text = sys.stderr.isatty() if config.log_format == "auto" else config.log_format == "text"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines() if text else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log.upper())
    # At level debug it would log every header of a call, and these hold secrets of users.
    logging.getLogger("httpcore").setLevel(logging.INFO)
