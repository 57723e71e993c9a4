"""Pages of the guide as programs: the Python blocks of a page, one below the other, are one module.

A page proves itself: it holds functions named `test_...`, and they run every flow that it shows. Lines of the module
are those of the page, so a traceback points into the Markdown. Nothing here knows what the pages say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import stepwire
from stepwire.hooks import HookCall
from tests.architecture.source import ROOT

GUIDE = ROOT / "docs" / "guide"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and how many lines of the page stand before its text."""

    language: str
    text: str
    above: int


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[Block]:
        return [block for block in blocks_of(self.text) if block.language == language]


def blocks_of(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)))


def guide() -> list[Page]:
    return [Page(path) for path in sorted(GUIDE.glob("*.md"))]


def program(blocks: list[Block]) -> str:
    """The blocks as one source, each where it stands on its page."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.above - len(lines)) + block.text.split("\n")[:-1]
    return "\n".join(lines) + "\n"


@contextmanager
def loaded(page: Page, blocks: list[Block]) -> Iterator[ModuleType]:
    """The program of a page, executed; it is in `sys.modules` meanwhile, where annotations are looked up."""
    name = f"page_{page.path.stem.lower().replace('-', '_')}"
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(program(blocks), str(page.path), "exec", dont_inherit=True), module.__dict__)
        yield module
    finally:
        del sys.modules[name]


class Entered:
    """Which flows of a page's hosts were entered."""

    def __init__(self, module: ModuleType) -> None:
        self.names: set[str] = set()
        hosts = [value for value in vars(module).values() if isinstance(value, stepwire.Host)]
        self._wanted = {name for host in hosts for name in host.flows}
        for host in hosts:
            host.on("run_started")(self._note)

    def _note(self, call: HookCall) -> None:
        self.names.add(call.flow)

    @property
    def missing(self) -> list[str]:
        return sorted(self._wanted - self.names)
