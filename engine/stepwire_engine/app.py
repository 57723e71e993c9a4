"""The composition root: the one place that builds the engine's parts, and the order they start and stop in.

Start: store and recovery, HTTP, gRPC, the host for calls, ready. Stop: no new work, attempts in progress, calls
given back, last words to hosts, store, ports. Every way to end leaves durable state that the next engine takes over.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from stepwire._event_loop import name_of
from stepwire_engine.calls.host import CallHost, CallSettings
from stepwire_engine.clock import SystemClock
from stepwire_engine.config import Config, secrets_of
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.runs import RunBounds
from stepwire_engine.store.base import Store, StoreError
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.telemetry import Telemetry, metrics_registry
from stepwire_engine.transport import host_service, run_service
from stepwire_engine.transport.server import GrpcServer, authority
from stepwire_engine.web.health import Health
from stepwire_engine.web.server import HttpServer

MEMORY = ":memory:"
"""As `db`: keep everything in memory and forget it at the end."""
_GRACE_SECONDS = 0.5
"""For calls in progress when the ports close; streams of hosts have ended by then."""
_PART_SECONDS = 0.5
"""What one part of a stopping engine may take beyond that; what it has not finished, the end of the process does."""
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
        loop = asyncio.get_running_loop()
        storage = "memory" if memory else "sqlite"
        self._telemetry = telemetry = Telemetry(version=self._version, storage=storage, loop=name_of(loop))

        def notify(call: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(call)

        store: Store
        if memory:
            store = MemoryStore(notify=notify)
        else:
            store = SqliteStore(
                config.db,
                notify=notify,
                on_failed=self._store_failed,
                observe_commit=self._observe_commit,
                check_seconds=config.db_check_timeout,
            )
            telemetry.refresh.append(self._measure_storage)
        self.driver = Driver(
            config.core,
            store,
            clock,
            telemetry,
            bounds=RunBounds(
                runs_in_memory_max=config.runs_in_memory_max,
                starts_pending_max=config.starts_pending_max,
                reads_pending_max=config.reads_pending_max,
                units_waiting_max=config.units_waiting_max,
                payload_bytes_max=config.payload_bytes_max,
            ),
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

    def _count_rpc(self, method: str, code: str) -> None:
        self._telemetry.rpcs[method, code] += 1

    def _measure_storage(self) -> None:
        files = [Path(f"{self._config.db}{suffix}") for suffix in ("", "-wal")]
        self._telemetry.storage_bytes = sum([file.stat().st_size for file in files if file.exists()])

    def health(self) -> Health:
        """For probes."""
        failure = self.driver.store_failure
        full = self._started and failure is None and not self.driver.accepting
        return Health(
            self._version,
            self._started,
            self.driver.draining,
            "the outcome of a commit is unknown" if failure else "",
            store_full=full,
            quarantined_runs=len(self.driver.core.unreadable) if self._started else 0,
        )

    async def start(self) -> Addresses:
        """Returns when hosts and clients are served. Raises StoreError, ListenError, AddressUnavailable."""
        config, driver = self._config, self.driver
        await driver.start()
        try:
            calls = run_service.RunService(
                driver.runs,
                payload_bytes_max=config.payload_bytes_max,
                new_ref=self._new_ref,
                answered=self._count_rpc,
            )
            hosts = host_service.HostService(
                driver,
                self._telemetry,
                new_ref=self._new_ref,
                bounds=host_service.StreamBounds(
                    write_timeout=config.write_timeout,
                    frames_queued_max=config.queue_frames_max,
                    bytes_queued_max=config.queue_bytes_max,
                    faults_per_minute_max=config.faults_per_minute_max,
                    faults_backoff=config.faults_backoff,
                ),
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
            await _within(_PART_SECONDS, self._calls.stop(), "calls of steps")
        await self.driver.stop()
        if self._grpc is not None:
            grace = _GRACE_SECONDS if self._started else 0.0
            await _within(grace + _PART_SECONDS, self._grpc.stop(grace), "streams and calls")
        if self._http is not None and self._started:
            await _within(_PART_SECONDS, self._http.stop(), "requests for metrics and health")


async def _within(seconds: float, ending: Coroutine[Any, Any, None], what: str) -> None:
    """Every part has a deadline of its own: a peer that does not answer must not keep the engine."""
    try:
        async with asyncio.timeout(seconds):
            await ending
    except TimeoutError:
        _log.warning("%s did not end within %g s and were cut", what, seconds)


def _call_settings(config: Config) -> CallSettings:
    return CallSettings(
        allow=config.call_allow,
        slots=config.call_slots,
        response_bytes_max=config.call_response_bytes_max,
        payload_bytes_max=config.payload_bytes_max,
        timeout_max=config.call_timeout_max,
        secrets=secrets_of(os.environ),
    )


def _is_installed() -> bool:
    """False in a source tree that was never installed."""
    try:
        metadata.version("stepwire")
    except metadata.PackageNotFoundError:
        return False
    return True
