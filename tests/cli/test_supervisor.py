"""Order of starting and ending, stubborn children, and lines, with small programs in place of engine and hosts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from stepwire_engine.cli import children, supervisor
from stepwire_engine.cli.supervisor import Plan, Supervisor
from tests.cli.terminals import free_port

ENGINE = """
import signal, socket, sys
server = socket.create_server(("127.0.0.1", {port}))
signal.signal(signal.SIGTERM, lambda *_: (print("engine ends"), sys.exit(0)))
print("engine listens")
while True: server.accept()[0].close()
"""
HOST = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("host ends"), sys.exit(0)))
print("host starts")
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("host stays"))
print("host starts")
while True: signal.pause()
"""


class Watched:
    """What a supervisor showed; reacts to a line by calling something."""

    def __init__(self, **reactions: object) -> None:
        self.lines: list[str] = []
        self._reactions = {name.replace("_", " "): action for name, action in reactions.items()}

    def show(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}" if name else line)
        action = self._reactions.pop(line, None)
        if callable(action):
            action()


def supervise(
    watched: Watched, host: str, *, engine: str = ENGINE, drain_timeout: float = 5.0, changes: object = None
) -> int:
    port = free_port()
    python = [sys.executable, "-u", "-c"]
    plan = Plan(
        engine=[*python, engine.replace("{port}", str(port))],
        hosts={"app.py": [*python, host]},
        environment=dict(os.environ),
        ready=("127.0.0.1", port),
        drain_timeout=drain_timeout,
        changes=changes,  # type: ignore[arg-type]
    )

    async def main() -> int:
        return await Supervisor(plan, show=watched.show, on_ready=lambda: watched.show("", "ready")).run()

    return anyio.run(main)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_hosts_start_after_the_engine_and_end_before_it() -> None:
    watched = Watched(host_starts=interrupt)
    assert supervise(watched, HOST) == 0
    assert watched.lines == [
        "engine: engine listens", "ready", "app.py: host starts", "stopping; once more to stop at once",
        "app.py: host ends", "engine: engine ends",
    ]  # fmt: skip


def test_a_host_that_does_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS_EXTRA", 0.1)
    watched = Watched(host_starts=interrupt)
    assert supervise(watched, STUBBORN, drain_timeout=0.1) == 0
    assert watched.lines[-3:] == [
        "app.py: host stays",
        "app.py did not end within 0.2 s and was killed; its steps are tried again",
        "engine: engine ends",
    ]


def test_the_second_ctrl_c_ends_at_once() -> None:
    """The drain timeout is far above the time limit of the test."""
    watched = Watched(host_starts=interrupt, host_stays=interrupt)
    assert supervise(watched, STUBBORN, drain_timeout=3600) == 0
    assert "app.py: host stays" in watched.lines and "engine: engine ends" not in watched.lines


def test_the_exit_code_of_the_engine_is_that_of_dev() -> None:
    watched = Watched()
    assert supervise(watched, HOST, engine="raise SystemExit(74)") == 74
    assert watched.lines == ["the engine ended with exit code 74"]


def test_every_change_starts_the_hosts_again() -> None:
    changes, reports = anyio.create_memory_object_stream[set[Path]](4)

    async def changed(stop: anyio.Event) -> AsyncIterator[set[Path]]:
        async for found in reports:
            yield found

    starts = iter([lambda: changes.send_nowait({Path("b.py"), Path("a.py")}), interrupt])

    class Twice(Watched):
        def show(self, name: str, line: str) -> None:
            super().show(name, line)
            if line == "host starts":
                next(starts)()

    watched = Twice()
    with changes, reports:
        assert supervise(watched, HOST, changes=changed) == 0
    assert watched.lines[2:6] == [
        "app.py: host starts", "a.py, b.py changed: starting app.py again", "app.py: host ends", "app.py: host starts",
    ]  # fmt: skip


def test_lines_are_cut_made_safe_and_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LINE_BYTES_MAX", 8)
    code = "import os; os.write(1, b'123456789012\\n\\x1b[2Jx\\xff\\r\\nlast')"
    seen: list[str] = []

    async def main() -> None:
        await children.Child("c", [sys.executable, "-c", code], os.environ, lambda _, line: seen.append(line)).run()

    anyio.run(main)
    assert seen == ["123456789012", "[2Jx\ufffd", "last"]


def test_a_line_without_end_comes_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LINE_BYTES_MAX", 8)
    seen: list[str] = []

    async def main() -> None:
        code = "print('x' * 20, end='')"
        await children.Child("c", [sys.executable, "-c", code], os.environ, lambda _, line: seen.append(line)).run()

    anyio.run(main)
    assert seen == ["x" * 8, "x" * 8, "x" * 4]


def test_what_a_child_leaves_behind_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It holds the child's pipe, and would wait for ever for somebody to open a file."""
    monkeypatch.setattr(children, "PIPE_SECONDS", 0.1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f"import subprocess; subprocess.Popen(['sh', '-c', 'read line < {gate}']); print('child ends')"
    seen: list[str] = []
    child = children.Child("c", [sys.executable, "-c", code], os.environ, lambda _, line: seen.append(line))

    anyio.run(child.run)
    assert (seen, child.exit_code) == (["child ends"], 0)
    with pytest.raises(OSError, match="No such device or address"):  # nobody waits at the other side
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
