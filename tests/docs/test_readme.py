"""The README is executed: its files are written, its commands typed, and what it shows is compared with what comes out.

`…` in shown output stands for anything. Commands that serve run in the background until the test ends. Python blocks
without the name of a file are its tour: one program whose flows run in memory.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
SERVES = ("stepwire dev", "stepwire engine", "stepwire host")
BANNER = re.compile(r"stepwire dev +engine (\S+) ")
SECONDS = 15.0


@dataclass(frozen=True)
class Command:
    """What is typed after `$ `, and the lines shown below it."""

    text: str
    shown: str


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


def files() -> dict[str, str]:
    """Python blocks by the name in their first line."""
    return {named[1]: text for text in blocks("python") if (named := FILE.match(text))}


def commands() -> list[Command]:
    typed = "".join(blocks("console")).split("$ ")[1:]
    return [Command(text.partition("\n")[0], text.partition("\n")[2]) for text in typed]


def looks_like(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.rstrip("\n").split("…"))
    return re.fullmatch(pattern, printed.rstrip("\n")) is not None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [open_socket.getsockname()[1] for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports


class Served:
    """A command in the background whose lines can be waited for."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            f"exec {command}",
            shell=True,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line in which `pattern` is found."""
        while True:
            line = self._new.get(timeout=SECONDS)
            assert line is not None, "ended before it said " + pattern + ":\n" + "".join(self.lines)
            if found := re.search(pattern, line):
                return found

    def join(self) -> int:
        """Wait until it ends by itself; its exit code."""
        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
        self._reader.join(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def stop(self) -> int:
        """Press Ctrl-C; its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)


class Terminal:
    """A directory with the files of the README, and the repository's commands on the PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("STEPWIRE_")}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        for name, text in files().items():
            (directory / name).write_text(text, encoding="utf-8")

    def run(self, command: str) -> str:
        """What it prints on stdout; it must succeed."""
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serve(self, command: str) -> Iterator[Served]:
        """Serve in the background, on ports of its own; later commands dial the engine there."""
        grpc, http = free_ports(2)
        served = Served(f"{command} --port {grpc} --http-port {http}", self.directory, self.environment)
        try:
            self.environment["STEPWIRE_ENGINE"] = served.wait_for(BANNER.pattern)[1]
            served.wait_for("host shop connected to engine")
            yield served
        finally:
            code = served.stop()
        assert code in (0, 130), f"{command} ended with {code}"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.mark.timeout(120)
def test_every_command_prints_what_the_readme_shows(terminal: Terminal) -> None:
    serving, *typed = commands()
    assert serving.text.startswith(SERVES) and not any(command.text.startswith(SERVES) for command in typed)
    assert len(typed) >= 4
    with terminal.serve(serving.text) as served:
        for command in typed:
            printed = terminal.run(command.text)
            assert looks_like(command.shown, printed), f"$ {command.text}\nshown:\n{command.shown}\nprinted:\n{printed}"
        shown = re.sub(r":\d+", ":…", serving.shown)
        assert any(looks_like(shown, line) for line in served.lines)


@pytest.mark.timeout(120)
def test_a_run_is_completed_by_corrected_code(terminal: Terminal) -> None:
    """What the README invites to do: break a step, start a run, correct the step while the run waits."""
    app, right = terminal.directory / "app.py", files()["app.py"]
    charge = re.compile(r'    return f"paid for .*')
    wrong = charge.sub('    raise ConnectionError("no route to the bank")', right)
    assert wrong != right
    app.write_text(wrong, encoding="utf-8")
    with terminal.serve("stepwire dev app.py") as served:
        run = Served(
            """stepwire run order --input '{"sku": "A1", "quantity": 2}'""", terminal.directory, terminal.environment
        )
        try:
            run.wait_for("charge  BACKOFF.*no route to the bank")
            app.write_text(right, encoding="utf-8")
            served.wait_for("host shop connected to engine")
        finally:
            code = run.join()
        printed = "".join(run.lines)
        assert code == 0 and '"payment": "paid for 2 x A1"' in printed, printed
        assert sum("reserved 2 x A1" in line for line in served.lines) == 1, "".join(served.lines)


def test_the_example_is_that_of_the_readme() -> None:
    assert (ROOT / "examples/quickstart/app.py").read_text(encoding="utf-8") == files()["app.py"]


def test_make_targets_exist() -> None:
    typed = [line.partition("#")[0].split() for text in blocks("sh") for line in text.splitlines()]
    targets = [words[1] for words in typed if words[:1] == ["make"]]
    assert {"demo", "test", "setup"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_links_resolve() -> None:
    links = [link.partition("#")[0] for link in LINK.findall(README) if "://" not in link]
    assert len(links) >= 6
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_comparison_sees_a_difference() -> None:
    assert looks_like("a … c\nd\n", "a b c\nd\n")
    assert not looks_like("a … c\nd\n", "a b c\ne\n")
    assert not looks_like("a\n", "a\nb\n")
