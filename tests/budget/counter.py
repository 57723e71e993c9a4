"""Counts calls of Python and C functions by `sys.setprofile`, for each side of a pair by itself.

Calls do not depend on how fast or busy a machine is. What is counted is what cProfile would count: every call of a
function, every time a coroutine goes on, and every call into C.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

Name = CodeType | str


class CallCounter:
    """Calls of one side, by function."""

    def __init__(self) -> None:
        self.here: Counter[Name] = Counter()
        self.beside: Counter[Name] = Counter()
        """Of a thread that works for this side; two threads that add to one number would lose some."""
        self.on = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what this thread calls."""
        if not self.on:
            yield
            return
        calls = self.here

        def note(frame: FrameType, event: str, arg: Any) -> None:
            if event == "call":
                calls[frame.f_code] += 1
            elif event == "c_call":
                calls[arg.__qualname__] += 1

        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def watch_new_threads(self) -> None:
        """Count what threads call that are started from now on, while this is on."""

        def note(frame: FrameType, event: str, arg: Any) -> None:
            if not self.on:
                return
            if event == "call":
                self.beside[frame.f_code] += 1
            elif event == "c_call":
                self.beside[arg.__qualname__] += 1

        threading.setprofile(note)

    def start(self) -> None:
        """From zero."""
        self.here.clear()
        self.beside.clear()
        self.on = True

    def stop(self) -> Counter[Name]:
        """Every function that was called, and how often."""
        self.on = False
        return self.here + self.beside


def title(name: Name) -> str:
    """A function for people: file, line and name."""
    if isinstance(name, str):
        return f"C {name}"
    return f"{'/'.join(name.co_filename.rsplit('/', 2)[1:])}:{name.co_firstlineno} {name.co_qualname}"
