"""Declared flows for tests: steps that return, raise or wait at gates, and what a run of them left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import stepwire
from stepwire import Flow, Step, testing
from stepwire.declarative import FlowState
from stepwire.protocol.plan import GroupOpened
from stepwire.testing import TestRun
from stepwire_engine.core.entries import Planned
from tests.sdk.gates import Gates


def run_once(flow: Flow, *args: Any, replay: bool = False) -> TestRun:
    host = stepwire.Host("declared")
    return testing.run(host, host.add(flow), *args, replay=replay)


def returns(value: Any, *, is_async: bool = True) -> Callable[..., Any]:
    """A step function that returns `value`."""

    async def in_task(state: FlowState) -> Any:
        return value

    return in_task if is_async else lambda state: value


def raises(message: str, *, is_async: bool = True) -> Callable[..., Any]:
    async def in_task(state: FlowState) -> Any:
        raise ValueError(message)

    def on_thread(state: FlowState) -> Any:
        raise ValueError(message)

    return in_task if is_async else on_thread


def opened(run: TestRun) -> list[GroupOpened]:
    return [group for entry in run.journal if isinstance(entry, Planned) for group in entry.plan.groups]


def states(run: TestRun) -> dict[str, str]:
    return {step.path: step.state.name for step in run.record.steps}


class Gated:
    """The seed's first flow with gates: two members, then a step that reads what became of them.

    Args:
        fails: Members that raise when their gate opens.
        options: Of the group.
    """

    def __init__(self, *, is_async: bool = True, fails: tuple[str, ...] = (), **options: Any) -> None:
        self.gates = Gates()
        self.is_async = is_async
        self.fails = fails
        self.stopped: list[str] = []
        members = [Step(name, self._gated(name), retries=0) for name in ("fetch-user", "fetch-posts")]
        self.flow = (
            Flow("fetch-and-process")
            .parallel("fetch-data", members, **options)
            .step("process-all", self._gated("process-all"))
        )
        self.host = stepwire.Host("declared")
        self.host.add(self.flow)

    def _gated(self, name: str) -> Callable[..., Any]:
        async def in_task() -> str:
            try:
                await self.gates.wait(name)
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return self._outcome(name)

        def on_thread() -> str:
            self.gates.wait_sync(name)
            return self._outcome(name)

        return in_task if self.is_async else on_thread

    def _outcome(self, name: str) -> str:
        if name in self.fails:
            raise ValueError(f"{name} is down")
        return name
