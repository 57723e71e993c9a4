"""What a finished run says of its groups, read from its journal; and driving a flow while its gates are opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.plan import BranchEnded, GroupEnded, GroupOpened, Plan
from stepwire.results import BranchResult
from stepwire.testing import Environment, TestRun
from stepwire_engine.core.entries import Planned
from stepwire_engine.core.history import StepStateView

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
MODES = pytest.mark.parametrize("mode", list(stepwire.ParallelMode), ids=lambda m: m.name)


def plans(run: TestRun) -> list[Plan]:
    return [entry.plan for entry in run.journal if isinstance(entry, Planned)]


def opened(run: TestRun) -> list[GroupOpened]:
    return [group for plan in plans(run) for group in plan.groups]


def ended(run: TestRun) -> list[GroupEnded]:
    return [group for plan in plans(run) for group in plan.groups_ended]


def branches_ended(run: TestRun) -> list[BranchEnded]:
    return [branch for plan in plans(run) for branch in plan.branches_ended]


def steps_planned(run: TestRun) -> list[str]:
    return [step.path for plan in plans(run) for step in plan.steps]


def states(run: TestRun) -> dict[str, StepStateView]:
    return {step.path: step.state for step in run.record.steps}


def planned(env: Environment, run_id: str) -> list[str]:
    """Steps that are recorded so far."""
    return [step.path for entry in env.journal(run_id) if isinstance(entry, Planned) for step in entry.plan.steps]


def winner(won: BranchResult[Any]) -> tuple[int, str, Any]:
    return won.index, won.name, won.value


def drive(
    body: Callable[..., Any], script: Callable[[Environment, str], Any] | None = None, *, replay: bool = False
) -> TestRun:
    """Run a flow to its end while `script` opens its gates."""

    async def main() -> TestRun:
        host = stepwire.Host("groups")
        flow = host.flow(body)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            if script is not None:
                await script(env, run_id)
            return await finish

    return asyncio.run(main())
