"""What the guide shows of clients runs against an engine of its own process: functions with a parameter `client`."""

from __future__ import annotations

import ast
import asyncio
from types import ModuleType
from typing import Any

import pytest

import stepwire
from tests.docs.pages import Page, guide, loaded, program
from tests.e2e.processes import Engine, Stage

PAGES = {page.path.stem: page for page in guide()}
GIVES: dict[tuple[str, str], Any] = {
    ("cancellation", "stop_all"): lambda ids: len(ids) == 1,
    ("clients", "greet_one"): lambda result: result == "hello Ada",
    ("clients", "greet_later"): lambda told: told == ("hello Grace", True, "hello Grace"),
    ("clients", "greet_all"): lambda results: results == ["hello Ada", "hello Grace", "hello Edsger"],
    ("clients", "some_refused"): lambda told: told == ([False], ["key_conflict"]),
    ("clients", "how_each_went"): lambda told: told[0] == "hello Ada" and told[1].endswith("nobody to greet"),
    ("declarative", "how_it_went"): lambda steps: str(steps) == shown("declarative", "[("),
    ("events", "tell"): lambda event_id: event_id == "bank-4711",
    ("logs", "warnings"): lambda lines: lines == [],
}
"""Page and function, and what is said of its result."""


def shown(page: str, start: str) -> str:
    """A text block of a page, on one line."""
    (text,) = [block.text for block in PAGES[page].blocks("text") if block.text.startswith(start)]
    return " ".join(text.split())


def functions_with_clients(page: Page) -> set[str]:
    tree = ast.parse(program(page.blocks("python")))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if any(arg.arg == "client" for arg in function.args.args)}


def test_none_is_left_out() -> None:
    assert {(name, function) for name, page in PAGES.items() for function in functions_with_clients(page)} == set(GIVES)


async def run_with_client(module: ModuleType, function: str, engine: Engine) -> Any:
    host: stepwire.Host = module.host
    await host.start(engine.address)
    try:
        await asyncio.to_thread(engine.running.says, f"host {host.name} connected")
        async with stepwire.Client(engine.address) as client:
            return await getattr(module, function)(client)
    finally:
        await host.stop()


@pytest.mark.timeout(60)
def test_what_the_pages_show_of_clients_works(stage: Stage) -> None:
    engine = stage.engine()
    for (name, function), holds in GIVES.items():
        page = PAGES[name]
        with loaded(page, page.blocks("python")) as module:
            result = asyncio.run(run_with_client(module, function, engine))
        assert holds(result), f"{name}: {function} gives {result!r}"
