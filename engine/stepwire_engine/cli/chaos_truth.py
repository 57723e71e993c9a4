"""What the hosts of `stepwire chaos` did, by a file that they write themselves, and what follows from it.

The engine's records say what it believes; only the hosts know what happened. Every result of the chaos flow is a stamp
that no other attempt ever returned, and every attempt writes the stamps that it was given. So a stamp that some step
was given, and that is not the recorded result of its step, is a result that was committed and lost.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwire.client import Run, StepRecord

FILE_ENV = "CHAOS_TRUTH"
FORGET_ENV = "CHAOS_FORGET"
"""If set: a host forgets to write the result of every so-manieth attempt. For tests of this command."""
FAILS_EVERY = 5
"""Every so-manieth run of the flow fails at its end and is undone."""
LATE_SECONDS = 2.0
"""A host that was stopped reads, for so long, what was sent to it before it was given up."""
_HOST_KINDS = frozenset({"run", "task"})


def succeeds(number: int) -> bool:
    """How the run with this number has to end."""
    return number % FAILS_EVERY != 0


class Pen:
    """Appends lines for one host process. Each is one write, so lines of several processes never mix.

    Args:
        path: The file.
        forget: Leave out every so-manieth line about a result; 0: none.
    """

    def __init__(self, path: str, forget: int = 0) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()
        self._forget = forget
        self._results = 0

    @staticmethod
    def from_environment() -> Pen:
        return Pen(os.environ[FILE_ENV], int(os.environ.get(FORGET_ENV) or 0))

    def begun(self, run_id: str, path: str, attempt: int, given: Sequence[str]) -> None:
        """An attempt is entered, with these stamps of other steps."""
        self._write("begun", run_id, path, attempt, given)

    def ended(self, run_id: str, path: str, attempt: int) -> str:
        """It is about to return; its result, a new stamp."""
        self._results += 1
        stamp = f"{self._pid}-{self._results}"
        if not self._forget or self._results % self._forget:
            self._write("ended", run_id, path, attempt, [stamp])
        return stamp

    def _write(self, event: str, run_id: str, path: str, attempt: int, stamps: Sequence[str]) -> None:
        words = [event, run_id, path, str(attempt), str(self._pid), f"{time.monotonic():.6f}", *stamps]
        os.write(self._fd, (" ".join(words) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Line:
    """One event; `at` in seconds of the machine's monotonic clock."""

    event: str
    run_id: str
    path: str
    attempt: int
    pid: int
    at: float
    stamps: tuple[str, ...]

    @property
    def step(self) -> tuple[str, str]:
        return self.run_id, self.path

    @property
    def key(self) -> tuple[str, str, int]:
        return self.run_id, self.path, self.attempt


def read_lines(path: Path) -> list[Line]:
    """Everything hosts wrote. The last line of a killed one is whole or not there."""
    found = []
    for text in path.read_text("utf-8").splitlines():
        event, run_id, step, attempt, pid, at, *stamps = text.split(" ")
        found.append(Line(event, run_id, step, int(attempt), int(pid), float(at), tuple(stamps)))
    return found


@dataclass(frozen=True, slots=True)
class Absence:
    """A host process that could not work: killed, or stopped for a while."""

    pid: int
    begin: float
    end: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What became of everything. All but `repeated` must be empty or 0.

    Attributes:
        lost: Results that were committed and are not on record, one line each.
        twice: Steps with more than one result.
        causeless: Attempts that were executed again though their host lived.
        repeated: Attempts that were executed again because their host was killed or stopped with them, or that a host
            began late, because it had been stopped.
        slowest_repeat: Seconds from the end of a host to the repetition of what it executed.
    """

    steps: int
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    causeless: list[str] = field(default_factory=list)
    repeated: int = 0
    slowest_repeat: float = 0.0


def judge(records: Iterable[Run], lines: Sequence[Line], absences: Iterable[Absence]) -> Findings:
    """Compare the records of all runs with what the hosts wrote."""
    steps = {(run.run_id, step.path): step for run in records for step in run.steps if step.kind in _HOST_KINDS}
    made = {line.stamps[0]: line for line in lines if line.event == "ended"}
    twice = [_name(key) for key, step in steps.items() if len(_successes(step)) > 1]
    repeats = _Repeats(lines, made, absences)
    return Findings(
        steps=len(steps),
        lost=[*_not_on_record(lines, made, steps), *_made_by_nobody(steps, made), *repeats.after_use],
        twice=twice,
        causeless=repeats.causeless,
        repeated=repeats.explained,
        slowest_repeat=repeats.slowest,
    )


def _name(key: tuple[str, str]) -> str:
    return f"step {key[1]} of run {key[0]}"


def _successes(step: StepRecord) -> list[int]:
    return [attempt.number for attempt in step.attempts if attempt.failure is None]


def _not_on_record(
    lines: Sequence[Line], made: Mapping[str, Line], steps: Mapping[tuple[str, str], StepRecord]
) -> list[str]:
    """Stamps that a step was given: each was released, so it was committed, so it is on record."""
    used = {stamp for line in lines if line.event == "begun" for stamp in line.stamps}
    found = []
    for stamp in sorted(used):
        source = made.get(stamp)
        if source is None:
            found.append(f"result {stamp} was used, and no host made it")
        elif source.step not in steps or steps[source.step].output != stamp:
            found.append(f"result {stamp} of {_name(source.step)} was used, and is not on record")
    return found


def _made_by_nobody(steps: Mapping[tuple[str, str], StepRecord], made: Mapping[str, Line]) -> list[str]:
    """Results on record that are not from the attempt that is recorded as the success."""
    found = []
    for key, step in steps.items():
        line = made.get(str(step.output))
        if step.state == "SUCCEEDED" and (line is None or line.step != key or line.attempt not in _successes(step)):
            found.append(f"{_name(key)} has a result on record that its attempt did not make")
    return found


class _Repeats:
    """Attempts that were executed more than once, by the reason for it."""

    def __init__(self, lines: Sequence[Line], made: Mapping[str, Line], absences: Iterable[Absence]) -> None:
        self.explained = 0
        self.slowest = 0.0
        self.causeless: list[str] = []
        self.after_use: list[str] = []
        self._away: dict[int, list[Absence]] = defaultdict(list)
        for absence in absences:
            self._away[absence.pid].append(absence)
        first_use: dict[tuple[str, str], float] = {}
        for line in lines:
            for stamp in line.stamps if line.event == "begun" else ():
                if stamp in made:
                    first_use.setdefault(made[stamp].step, line.at)
        begun: dict[tuple[str, str, int], list[Line]] = defaultdict(list)
        for line in lines:
            if line.event == "begun":
                if self._is_late(line):
                    self.explained += bool(begun[line.key])
                elif line.at > first_use.get(line.step, math.inf):
                    self.after_use.append(f"{_name(line.step)} was executed again after its result was used")
                elif begun[line.key]:
                    self._explain(begun[line.key], line)
                begun[line.key].append(line)

    def _is_late(self, line: Line) -> bool:
        """The host was stopped, and begins what others have taken over meanwhile; its result is refused."""
        return any(away.begin <= line.at <= away.end + LATE_SECONDS for away in self._away[line.pid])

    def _explain(self, before: Sequence[Line], again: Line) -> None:
        causes = [
            absence.begin
            for line in before
            for absence in self._away[line.pid]
            if absence.end >= line.at and absence.begin <= again.at
        ]
        if not causes:
            self.causeless.append(f"{_name(again.step)} was executed again though its host lived")
            return
        self.explained += 1
        self.slowest = max(self.slowest, again.at - max(causes))
