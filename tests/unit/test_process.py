"""Signals and the end of a process that is a host, with a small stand-in for the host (MISSION P11)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepwire._process import EXIT_FORCED, EXIT_INTERRUPTED, EXIT_REFUSED, HostProcess

SCRIPT = """
import asyncio, sys, threading, time
from stepwire import _process
from stepwire._event_loop import loop_factory
from stepwire._process import HostProcess

_process.END_SECONDS = _process.HURRY_SECONDS = 0.3

class Host:
    def begin_drain(self, seconds): print("drains", flush=True)
    def hurry(self): print("hurries", flush=True)
    def wait_refused(self, stop): print("serves", flush=True); pass_time.wait()
    def leave(self, seconds): print("leaves", flush=True)

pass_time = threading.Event()

async def start():
    {start}
    return Host()

async def stop():
    {stop}

loops = loop_factory("{loop}")
code = HostProcess("h", start=start, stop=stop, drain_seconds={drain}, loop_factory=loops).run()
print("returned", code, flush=True)
{after}
sys.exit(code)
"""
SLACK_SECONDS = 8.0
"""What a busy machine may take. What must not be waited for takes a minute or more."""
FOR_EVER = "while True: time.sleep(600)"
STARTS_FOR_EVER = 'print("serves", flush=True); time.sleep(600)'


class Script:
    """A process with such a host."""

    def __init__(self, loop: str, *, start: str = "pass", stop: str = "pass", drain: float, after: str = "") -> None:
        code = SCRIPT.format(loop=loop, start=start, stop=stop, drain=drain, after=after)
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout

    def serves(self) -> Script:
        self.says("serves")
        return self

    def says(self, line: str) -> None:
        assert self.said.readline().strip() == line

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, float]:
        """Exit code, and the time until then."""
        began = time.monotonic()
        return self.process.wait(10), time.monotonic() - began

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.said.close()


Run = Callable[..., Script]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Starts a script; all end with the test."""
    pytest.importorskip(request.param)
    scripts: list[Script] = []

    def start(**options: Any) -> Script:
        scripts.append(Script(request.param, **options))
        return scripts[-1].serves()

    yield start
    for script in scripts:
        script.close()


def test_a_signal_drains_and_the_end_is_in_order(run: Run) -> None:
    script = run(drain=60)
    script.signal(signal.SIGINT)
    script.says("drains")
    script.says("returned 0")
    assert script.end()[0] == 0


def test_three_signals(run: Run) -> None:
    script = run(drain=60, stop="await asyncio.sleep(600)")
    script.signal()
    script.says("drains")
    script.signal(signal.SIGINT)
    script.says("hurries")
    script.signal()
    code, seconds = script.end()
    assert code == EXIT_INTERRUPTED and seconds < SLACK_SECONDS


@pytest.mark.parametrize("where", ["start", "stop"])
def test_a_blocked_loop_is_told_of_and_ended_by_force(run: Run, where: str) -> None:
    """The first signal reaches the session although the loop does not run; the second shortens the wait."""
    script = run(drain=60, **{where: STARTS_FOR_EVER if where == "start" else FOR_EVER})
    script.signal()
    if where == "stop":
        script.says("drains")
    script.signal(signal.SIGINT)  # another one: two of a kind may come as one
    if where == "stop":
        script.says("hurries")
        script.says("leaves")
    code, seconds = script.end()
    assert code == EXIT_INTERRUPTED and seconds < SLACK_SECONDS


def test_a_blocked_loop_has_its_drain_timeout(run: Run) -> None:
    script = run(drain=0.1, stop=FOR_EVER)
    script.signal()
    script.says("drains")
    script.says("leaves")
    code, seconds = script.end()
    assert code == EXIT_FORCED and seconds < SLACK_SECONDS


def test_threads_that_nobody_joins_keep_no_process(run: Run) -> None:
    script = run(drain=0.1, after="threading.Thread(target=pass_time.wait).start()")
    script.signal()
    script.says("drains")
    script.says("returned 0")
    code, seconds = script.end()
    assert code == 0 and seconds < SLACK_SECONDS


def test_a_signal_is_heard_while_the_loop_is_in_code_that_never_looks(run: Run) -> None:
    """A call into C for minutes runs no handler of Python, and uvloop would have the wake-ups for itself."""
    endless = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
    script = run(drain=0.1, start=f'import hashlib; print("serves", flush=True); {endless}')
    script.signal()
    code, seconds = script.end()
    assert code == EXIT_FORCED and seconds < SLACK_SECONDS
    assert not script.said.read(), "it ended by force"


def test_the_application_has_handlers_of_other_signals_on_its_loop(run: Run) -> None:
    """Whichever loop it is: uvloop would wait for wake-ups that the host has taken from it."""
    start = (
        "import os, signal; heard = asyncio.Event()",
        "asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)",
        "os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait_for(heard.wait(), 8)",
    )
    script = run(drain=60, start="; ".join(start))
    script.signal()
    script.says("drains")
    script.says("returned 0")


def test_outside_the_main_thread_there_are_no_signals_and_a_refusal_ends_it() -> None:
    refused = threading.Event()

    class Host:
        def begin_drain(self, seconds: float) -> None: ...
        def hurry(self) -> None: ...
        def leave(self, seconds: float) -> None: ...

        def wait_refused(self, stop: asyncio.Event) -> None:
            refused.wait(10)

    async def start() -> Host:
        return Host()

    async def stop() -> None:
        stopped.set()

    stopped, codes = threading.Event(), []
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    process = HostProcess("h", start=start, stop=stop, drain_seconds=1)
    thread = threading.Thread(target=lambda: codes.append(process.run()))
    thread.start()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    refused.set()
    thread.join(10)
    assert codes == [EXIT_REFUSED] and stopped.is_set()
