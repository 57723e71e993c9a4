"""Both clients behind one face, so that every test of a client is made with the plain and with the async one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from stepwire import client as client_module
from stepwire.client import Client, ClientSync
from stepwire.codec import JSON_CODEC
from stepwire.protocol.payload import Payload
from tests.transport.run_engine import TablePort, passed


class Caller(Protocol):
    """What the tests ask of a client, plain or async."""

    def start(self, flow: Any, *args: Any, **kwargs: Any) -> Any: ...
    def run(self, flow: Any, *args: Any, **kwargs: Any) -> Any: ...
    def start_many(self, flow: Any, inputs: Any, **options: Any) -> list[Any]: ...
    def result(self, run_id: str, timeout: float | None = None, flow: Any = None) -> Any: ...
    def results(self, run_ids: Sequence[str], flow: Any = None, **options: Any) -> list[Any]: ...
    def get(self, run_id: str, steps: bool = False) -> client_module.Run: ...
    def list(self, **filters: Any) -> list[client_module.Run]: ...
    def watch(self, run_id: str, seen: Callable[[client_module.Run], None], **options: Any) -> None: ...
    def resume(self, run_id: str) -> None: ...
    def cancel(self, run_id: str, undo: bool | None = None) -> None: ...
    def cancel_handle(self, run_id: str, undo: bool | None = None) -> None: ...
    def cancel_all(self, **filters: Any) -> tuple[str, ...]: ...
    def send(self, *args: Any, **kwargs: Any) -> str: ...
    def logs(self, run_id: str, **filters: Any) -> tuple[list[client_module.LoggedLine], int, int]:
        """The lines, how many are missing, and where reading goes on."""


class SyncCaller:
    def __init__(self, address: str) -> None:
        self._client = ClientSync(address)

    def start(self, flow: Any, *args: Any, **kwargs: Any) -> Any:
        return self._client.start(flow, *args, **kwargs)

    def run(self, flow: Any, *args: Any, **kwargs: Any) -> Any:
        return self._client.run(flow, *args, **kwargs)

    def start_many(self, flow: Any, inputs: Any, **options: Any) -> list[Any]:
        return self._client.start_many(flow, inputs, **options)

    def results(self, run_ids: Sequence[str], flow: Any = None, **options: Any) -> list[Any]:
        return self._client.results([self._client.handle(run_id, flow) for run_id in run_ids], **options)

    def result(self, run_id: str, timeout: float | None = None, flow: Any = None) -> Any:
        return self._client.handle(run_id, flow).result(timeout)

    def get(self, run_id: str, steps: bool = False) -> client_module.Run:
        return self._client.get(run_id, steps)

    def list(self, **filters: Any) -> list[client_module.Run]:
        return list(self._client.list(**filters))

    def watch(self, run_id: str, seen: Callable[[client_module.Run], None], **options: Any) -> None:
        for run in self._client.watch(run_id, **options):
            seen(run)

    def resume(self, run_id: str) -> None:
        self._client.resume(run_id)

    def cancel(self, run_id: str, undo: bool | None = None) -> None:
        self._client.cancel(run_id, undo=undo)

    def cancel_handle(self, run_id: str, undo: bool | None = None) -> None:
        self._client.handle(run_id).cancel(undo=undo)

    def cancel_all(self, **filters: Any) -> tuple[str, ...]:
        return self._client.cancel_all(**filters)

    def send(self, *args: Any, **kwargs: Any) -> str:
        return self._client.send(*args, **kwargs)

    def logs(self, run_id: str, **filters: Any) -> tuple[list[client_module.LoggedLine], int, int]:
        lines = self._client.logs(run_id, **filters)
        return list(lines), lines.dropped, lines.next

    def close(self) -> None:
        self._client.close()


class AsyncCaller:
    """Each call runs in a loop of its own, as a client may be used by several."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)

    def start(self, flow: Any, *args: Any, **kwargs: Any) -> Any:
        return asyncio.run(self._client.start(flow, *args, **kwargs))

    def run(self, flow: Any, *args: Any, **kwargs: Any) -> Any:
        return asyncio.run(self._client.run(flow, *args, **kwargs))

    def start_many(self, flow: Any, inputs: Any, **options: Any) -> list[Any]:
        return asyncio.run(self._client.start_many(flow, inputs, **options))

    def results(self, run_ids: Sequence[str], flow: Any = None, **options: Any) -> list[Any]:
        return asyncio.run(self._client.results([self._client.handle(run_id, flow) for run_id in run_ids], **options))

    def result(self, run_id: str, timeout: float | None = None, flow: Any = None) -> Any:
        return asyncio.run(self._client.handle(run_id, flow).result(timeout))

    def get(self, run_id: str, steps: bool = False) -> client_module.Run:
        return asyncio.run(self._client.get(run_id, steps))

    def list(self, **filters: Any) -> list[client_module.Run]:
        async def collect() -> list[client_module.Run]:
            return [run async for run in self._client.list(**filters)]

        return asyncio.run(collect())

    def watch(self, run_id: str, seen: Callable[[client_module.Run], None], **options: Any) -> None:
        async def read() -> None:
            async for run in self._client.watch(run_id, **options):
                seen(run)

        asyncio.run(read())

    def resume(self, run_id: str) -> None:
        asyncio.run(self._client.resume(run_id))

    def cancel(self, run_id: str, undo: bool | None = None) -> None:
        asyncio.run(self._client.cancel(run_id, undo=undo))

    def cancel_handle(self, run_id: str, undo: bool | None = None) -> None:
        asyncio.run(self._client.handle(run_id).cancel(undo=undo))

    def cancel_all(self, **filters: Any) -> tuple[str, ...]:
        return asyncio.run(self._client.cancel_all(**filters))

    def send(self, *args: Any, **kwargs: Any) -> str:
        return asyncio.run(self._client.send(*args, **kwargs))

    def logs(self, run_id: str, **filters: Any) -> tuple[list[client_module.LoggedLine], int, int]:
        async def collect() -> tuple[list[client_module.LoggedLine], int, int]:
            lines = self._client.logs(run_id, **filters)
            return [line async for line in lines], lines.dropped, lines.next

        return asyncio.run(collect())

    def close(self) -> None:
        self._client.close()


@dataclass
class Order:
    number: int


class Typed:
    """What a decorated flow looks like."""

    name = "orders"

    def encode_input(self, number: int, *, rush: bool = False) -> Payload:
        return Payload(f"[{number},{str(rush).lower()}]".encode())

    def decode_output(self, payload: Payload) -> Order:
        order: Order = JSON_CODEC.decode(payload, Order)
        return order


def interrupted(wait: Callable[[], Any], port: TablePort, aside: ThreadPoolExecutor) -> None:
    """Ctrl-C comes while the main thread is in `wait`, and ends that."""

    def interrupt() -> None:
        passed(port.watched)
        signal.raise_signal(signal.SIGINT)

    aside.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait()
