"""What `make demo` shows: a durable census over two hosts, then the same with a host and the engine killed midway.

It exits with 1 if what it claims is not so: both hosts worked, both results are equal, and no step whose outcome was
in the journal was executed again. What was executed comes from the ledger, a file that step bodies append to.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import stepwire
from examples.census import flow, ledger, report
from examples.census.analysis import CHUNKS_MIN, Census, list_sources, split
from examples.census.processes import Cluster, Unready
from examples.census.progress import Progress
from stepwire.client import RunHandleSync, StepState

HOSTS = ("census-1", "census-2")
TARGET = "examples.census.flow"
RUN_SECONDS = 300.0
"""A run that takes longer counts as stuck."""
_POLL_SECONDS = 0.05
_CHUNK = "analyse"
_LIST = "list"

Say = Callable[[str], None]


class Disproved(Exception):
    """Something the demonstration claims is not so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """What part 1 showed; steps by name of the host that executed them."""

    run_id: str
    seconds: float
    steps_per_host: dict[str, int]
    census: Census


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """What was true when nothing lived any more but one host.

    Attributes:
        host: Name of the host that was killed.
        completed: Paths of the steps whose outcome was in the journal on disk.
        in_flight: Paths of the steps that were being executed, or whose outcome was on its way, by host.
    """

    host: str
    completed: frozenset[str]
    in_flight: dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRun:
    """What part 2 showed; see Kill for what completed and in flight mean.

    Attributes:
        completed_again: Completed steps that were executed again.
        repeated_on_killed, repeated_on_survivor: Steps in flight there that were executed again.
        body_entries: How often the flow body was entered; each time after the first is a replay.
    """

    run_id: str
    seconds: float
    killed_host: str
    completed_at_kill: int
    completed_again: int
    in_flight_on_killed: int
    repeated_on_killed: int
    in_flight_on_survivor: int
    repeated_on_survivor: int
    body_entries: int
    results_equal: bool


class Demonstration:
    """Both parts, over one cluster.

    Args:
        request: What to count.
        directory: Takes the database, the ledger and the logs.
        chunks: How many there will be.
        say: Prints a line.
        progress: Draws how far a run is.
    """

    def __init__(self, request: flow.Request, directory: Path, chunks: int, say: Say, progress: Progress) -> None:
        self.cluster = Cluster(directory, "engine.db", TARGET)
        self.client = stepwire.ClientSync(self.cluster.address)
        self._request = request
        self._chunks = chunks
        self._third = chunks // 3
        self._say = say
        self._progress = progress
        self._ledger = directory / "ledger"
        self._hold = directory / "hold"

    def close(self) -> None:
        """End everything that was started."""
        logging.disable()  # the client's thread may still wait for a run
        self.client.close()
        self.cluster.stop()

    def start(self) -> None:
        """Start the engine and both hosts."""
        engine = self.cluster.start_engine()
        hosts = [self._start_host(name) for name in HOSTS]
        self.cluster.wait_for_hosts(len(HOSTS))
        self._say(f"  engine    pid {engine.pid}, journal in SQLite")
        for name, pid in zip(HOSTS, hosts, strict=True):
            self._say(f"  {name}  pid {pid}, {flow.SLOTS} slots")

    def first(self) -> FirstRun:
        """Part 1: a run with nothing in its way. Raises Disproved if one host did everything."""
        self._progress.begin()
        handle = self.client.start(flow.census, self._request)
        census = self._finish(handle)
        done = Counter(line.host for line in self._lines(handle) if line.moment == "after")
        for name in HOSTS:
            self._say(f"  {name}  executed {done[name]} of {sum(done.values())} steps")
        if min(done[name] for name in HOSTS) == 0:
            raise Disproved("one host executed all steps")
        return FirstRun(run_id=handle.run_id, seconds=self._progress.seconds, steps_per_host=dict(done), census=census)

    def second(self, expected: Census) -> SecondRun:
        """Part 2: the same run, killed in the middle. Raises Disproved if anything completed was executed again."""
        # From a third on chunks wait, so that the kill meets attempts in progress on a machine of any speed.
        finished = sum(line.moment == "after" for line in ledger.read(self._ledger))
        bound = finished + 1 + self._third  # the list step, then a third of the chunks
        self._hold.write_text(str(bound), ledger.ENCODING)
        self._progress.begin()
        handle = self.client.start(flow.census, self._request)
        result = _Waiting(handle)
        self._until_in_the_middle(handle)
        kill = self._kill(handle)
        self._hold.unlink()
        self._bring_back(kill)
        census = self._finish(handle, result)
        outcome = self._judged(handle, kill, census == expected)
        self._tell(outcome)
        return outcome

    # ---- part 2, one act after the other

    def _until_in_the_middle(self, handle: RunHandleSync[Census]) -> None:
        """Until a third of the chunks are committed and both hosts are executing more."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            lines = self._lines(handle)
            done = _paths(lines, "after")
            self._progress.draw(len(_chunks(done)), self._chunks)
            busy = {line.host for line in lines if line.moment == "before" and line.path not in done}
            if len(_chunks(done)) >= self._third and busy.issuperset(HOSTS):
                completed = {step.path for step in handle.get(steps=True).steps if step.state is StepState.SUCCEEDED}
                if len(_chunks(completed)) >= self._third:
                    return
            time.sleep(_POLL_SECONDS)
        raise Unready("the run did not reach a third of its chunks")

    def _kill(self, handle: RunHandleSync[Census]) -> Kill:
        """Kill the host that holds the flow body, and the engine."""
        # The step that is alone in its turn is executed where the body is.
        victim = next(line.host for line in self._lines(handle) if line.path == _LIST)
        host, engine = self.cluster.kill_host(victim), self.cluster.kill_engine()
        self._progress.end()
        self._say(f"  kill -9 {host:<6}  {victim}, which holds the flow body")
        self._say(f"  kill -9 {engine:<6}  the engine")
        completed = self._completed_on_disk(handle.run_id)
        lines = self._lines(handle)
        started = {name: {line.path for line in lines if line.host == name} for name in HOSTS}
        in_flight = {name: frozenset(paths - completed) for name, paths in started.items()}
        shown = ", ".join(f"{len(paths)} in flight on {name}" for name, paths in in_flight.items())
        self._say(f"  journal on disk: {len(completed)} steps completed; {shown}")
        return Kill(host=victim, completed=completed, in_flight=in_flight)

    def _completed_on_disk(self, run_id: str) -> frozenset[str]:
        """What a second engine reads from a copy of the journal; no host knows that engine."""
        copy = self.cluster.copy_of_journal("copy.db")
        try:
            copy.start_engine()
            with stepwire.ClientSync(copy.address) as client:
                run = client.get(run_id, steps=True)
            return frozenset(step.path for step in run.steps if step.state is StepState.SUCCEEDED)
        finally:
            copy.stop()

    def _bring_back(self, kill: Kill) -> None:
        engine = self.cluster.start_engine()
        pid = self._start_host(kill.host)
        self._say(f"  restarted the engine (pid {engine.pid}) and {kill.host} (pid {pid})")

    def _judged(self, handle: RunHandleSync[Census], kill: Kill, equal: bool) -> SecondRun:
        executions = Counter(line.path for line in self._lines(handle) if line.moment == "before")
        again = {path for path, count in executions.items() if count > 1}
        (survivor,) = set(HOSTS) - {kill.host}
        on_killed, on_survivor = kill.in_flight[kill.host], kill.in_flight[survivor]
        return SecondRun(
            run_id=handle.run_id,
            seconds=self._progress.seconds,
            killed_host=kill.host,
            completed_at_kill=len(kill.completed),
            completed_again=len(again & kill.completed),
            in_flight_on_killed=len(on_killed),
            repeated_on_killed=len(again & on_killed),
            in_flight_on_survivor=len(on_survivor),
            repeated_on_survivor=len(again & on_survivor),
            body_entries=handle.get().stats.body_entries,
            results_equal=equal,
        )

    def _tell(self, run: SecondRun) -> None:
        rows = {
            "result": "equal to that of part 1" if run.results_equal else "DIFFERENT from that of part 1",
            "completed steps executed again": f"{run.completed_again} of {run.completed_at_kill}",
            "in flight on the killed host, executed again": f"{run.repeated_on_killed} of {run.in_flight_on_killed}",
            "in flight on the other host, executed again": f"{run.repeated_on_survivor} of {run.in_flight_on_survivor}",
            "replays of the flow body": f"{run.body_entries - 1}",
        }
        width = max(map(len, rows))
        self._say("")
        for label, value in rows.items():
            self._say(f"  {label:<{width}}  {value}")
        self._say("")
        self._say("  completed: its outcome was in the journal on disk while engine and host were dead")
        self._say("  executed: its body wrote a line to the ledger, a file that the engine never sees")
        if not run.results_equal:
            raise Disproved("the two results differ")
        if run.completed_again:
            raise Disproved(f"{run.completed_again} completed steps were executed again")

    # ---- both parts

    def _start_host(self, name: str) -> int:
        environment = {
            ledger.LEDGER_ENV: str(self._ledger),
            ledger.HOLD_ENV: str(self._hold),
            ledger.HOST_ENV: name,
        }
        return self.cluster.start_host(name, environment).pid

    def _lines(self, handle: RunHandleSync[Census]) -> list[ledger.Line]:
        return [line for line in ledger.read(self._ledger) if line.run_id == handle.run_id]

    def _finish(self, handle: RunHandleSync[Census], waiting: _Waiting | None = None) -> Census:
        """Draw progress until the run has ended; its result."""
        waiting = waiting or _Waiting(handle)
        while not waiting.ended.wait(_POLL_SECONDS):
            self._progress.draw(len(_chunks(_paths(self._lines(handle), "after"))), self._chunks)
            for process in self.cluster.processes:
                if process.ended:
                    raise Unready(f"{process.name} ended by itself:\n{process.last_lines()}")
        self._progress.draw(len(_chunks(_paths(self._lines(handle), "after"))), self._chunks)
        self._progress.end()
        return waiting.result()


class _Waiting:
    """One call that waits for a result on a thread; it survives a restart of the engine."""

    def __init__(self, handle: RunHandleSync[Census]) -> None:
        self.ended = threading.Event()
        self._handle = handle
        self._census: Census | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._wait, daemon=True).start()

    def result(self) -> Census:
        if self._census is None:
            raise self._error or AssertionError("not ended")
        return self._census

    def _wait(self) -> None:
        try:
            self._census = self._handle.result(timeout=RUN_SECONDS)
        except Exception as error:
            self._error = error
        self.ended.set()


def _paths(lines: Iterable[ledger.Line], moment: str) -> set[str]:
    return {line.path for line in lines if line.moment == moment}


def _chunks(paths: Iterable[str]) -> set[str]:
    return {path for path in paths if path.rpartition("/")[2] == _CHUNK}


# ---- the program


def main() -> int:
    """Run the demonstration; 0 if everything it claims was so, 1 if not, 2 for a bad argument."""
    options = _options()
    root = options.directory.resolve()
    try:
        chunks = len(split(list_sources(root, include_tests=options.include_tests)))
    except NotADirectoryError as error:
        return _failed(f"{error}", 2)
    if chunks < CHUNKS_MIN:
        return _failed(f"{root} has {chunks} Python files; something to interrupt needs at least {CHUNKS_MIN}", 2)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    talk = sys.stderr if options.json else sys.stdout
    logging.basicConfig(level=logging.WARNING, stream=talk, format="  a waiting client: %(message)s")
    directory = Path(tempfile.mkdtemp(prefix="stepwire-census-"))
    keep = options.keep
    try:
        request = flow.Request(str(root), options.include_tests)
        _show(request, directory, chunks, talk, as_json=options.json)
    except (Disproved, Unready, stepwire.StepwireError) as error:
        keep = True
        return _failed(f"{error}\n  logs, ledger and database: {directory}", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader left, as in `| head`; nothing may be flushed into the pipe any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if keep:
        print(f"  kept: {directory}", file=talk)
    return 0


def _show(request: flow.Request, directory: Path, chunks: int, talk: TextIO, *, as_json: bool) -> None:
    def say(line: str) -> None:
        print(line, file=talk, flush=True)

    with ExitStack() as cleaning:
        demonstration = Demonstration(request, directory, chunks, say, Progress(talk))
        cleaning.callback(demonstration.close)
        say(f"1. A census of {request.root}: {chunks} chunks, two hosts, one engine")
        demonstration.start()
        first = demonstration.first()
        if not as_json:
            say("\n" + report.render(first.census, request.root))
        say("2. The same again, with a host and the engine killed in the middle")
        second = demonstration.second(first.census)
    if as_json:
        print(json.dumps({"first": dataclasses.asdict(first), "second": dataclasses.asdict(second)}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A durable census of Python sources, interrupted and completed.")
    standard_library = Path(sysconfig.get_path("stdlib"))
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=standard_library,
        help=f"directory of Python sources (default: {standard_library})",
    )
    parser.add_argument("--include-tests", action="store_true", help="look into test directories too")
    parser.add_argument("--json", action="store_true", help="print results as JSON; everything else goes to stderr")
    parser.add_argument("--keep", action="store_true", help="keep database, ledger and logs, and say where they are")
    return parser.parse_args()


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _failed(what: str, code: int) -> int:
    print(f"error: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
