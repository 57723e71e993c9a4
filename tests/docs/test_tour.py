"""The README's "What a flow can say" is executed: every line of its table, and the program below it, in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from scripts import docs
from stepwire import Event, testing
from stepwire_engine.core.entries import RunState
from tests.architecture.source import ROOT
from tests.calls.sites import answering, site
from tests.docs.pages import Entered, Page, loaded

README = Page(ROOT / "README.md")
ROW = re.compile(r"^\| ([^|]+) \| `([^|`]*ctx\.[^|`]*)` \|$", re.MULTILINE)
ELSEWHERE = "https://rates.example"
AROUND = """
from datetime import timedelta
import stepwire

host = stepwire.Host("table")
parcels = ["a", "b"]

def charge(order): return 12
def reserve(order): return "seat"
def release(seat): ...
def scan(parcel): return parcel.upper()

@host.flow
async def ship(ctx: stepwire.Context, order: int) -> str:
    return f"shipped {order}"

@host.flow
async def flow(ctx: stepwire.Context, order: int):
    async def pay(): return await ctx.step.run("pay", charge, order)
    async def pack(): return await ctx.step.run("pack", reserve, order)
    by_air, by_sea = pay, pack
    LINE
"""
"""What a line of the table stands in."""
ANY_DAY_LATER = datetime(2026, 1, 3, tzinfo=UTC)
"""By the virtual clock, which begins with the year 2026."""
ENDS = {"ctx.cancel()": RunState.CANCELLED}


def lines() -> list[str]:
    text = README.text
    table = text[text.index("\n## What a flow can say") : text.index("\n### Groups")]
    return [line for _, line in ROW.findall(table)]


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replayed"])
@pytest.mark.parametrize("line", lines())
def test_every_line_of_the_table_runs(line: str, replay: bool) -> None:
    async def main() -> testing.TestRun:
        async with site(answering("content-length: 0")) as rates:
            module: dict[str, Any] = {}
            exec(compile(AROUND.replace("LINE", line.replace(ELSEWHERE, rates.url(""))), line, "exec"), module)
            async with testing.environment(module["host"], replay=replay) as env:
                return await env.execute(module["flow"], 17)

    run = asyncio.run(main())
    assert run.record.state is ENDS.get(line, RunState.SUCCEEDED), run.failure


def said_nowhere() -> Iterator[str]:
    text = "\n".join(lines())
    for part, owner in docs.parts_of("Context"):
        yield from (f"ctx.{part}.{name}" for name, _ in docs.members(owner) if f"ctx.{part}.{name}(" not in text)


def test_the_table_has_everything_that_steps_and_groups_can_do() -> None:
    assert list(said_nowhere()) == []


# ---- the program below it


@pytest.fixture
def tour() -> Iterator[ModuleType]:
    unnamed = [block for block in README.blocks("python") if not re.match(r"# \w+\.py\n", block.text)]
    with loaded(README, unnamed) as module:
        yield module


def test_the_tour_says_what_it_shows(tour: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with site(answering("content-length: 0")) as letters, testing.environment(tour.tour) as env:
            assert await env.run(tour.quotes) == [30, 40]
            booked = await env.execute(tour.book, "Rome")
            assert booked.order == ["seat", "ticket", "seat#undo"]
            await told(env)
            hello = (await env.execute(tour.greet)).output
            assert hello.result("hello").output == "hello ada, without ['mood']"
            sent = {"invoice": 17, "currency": "EUR", "letters": letters.url("")}
            await env.send(Event("invoice/sent", {**sent, "currency": "USD"}))
            await env.send(Event("invoice/sent", sent))
            (run_id,) = await env.started(tour.follow_up)
            assert (await env.finish(tour.follow_up, run_id)).output == "invoice 17 goes to the lawyer"
            assert [request.line for request in letters.requests] == ["POST /reminders HTTP/1.1"]

    async def told(env: testing.Environment) -> None:
        handler = tour.tour.flows["book.on_failure"]
        (run_id,) = await env.started(handler)
        assert (await env.finish(handler, run_id)).succeeded

    entered = Entered(tour)
    asyncio.run(main())
    assert entered.missing == []
    assert capsys.readouterr().out == "freed seat to Rome\nbook of Rome failed: the printer is on fire\n"


def test_what_is_paid_in_time_needs_no_letter(tour: ModuleType) -> None:
    async def main() -> None:
        async with testing.environment(tour.tour) as env:
            await env.send(Event("invoice/sent", {"invoice": 17, "currency": "EUR", "letters": "http://127.0.0.1:9"}))
            (run_id,) = await env.started(tour.follow_up)
            await env.send(Event("invoice/paid", {"invoice": 17}, at=ANY_DAY_LATER))
            assert (await env.finish(tour.follow_up, run_id)).output == "paid"

    asyncio.run(main())
