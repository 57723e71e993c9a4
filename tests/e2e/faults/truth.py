"""What must be true of runs after any number of crashes: the records of the engine against the ledger of the hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from stepwire.client import ClientSync, Run, StepRecord, StepState
from tests.e2e.ledger import Line

HOST_KINDS = frozenset({"run", "task"})
STAMP = "stamp:"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of one history; each of `lost`, `twice`, `foreign` and `again` must be 0.

    Attributes:
        acked: Outcomes the engine acknowledged to hosts.
        lost: Of these, those that no record has.
        twice: Steps with more than one result.
        foreign: Results that are not from the attempt that is recorded beside them.
        again: Attempts that were begun more than once.
    """

    runs: int
    steps: int
    acked: int
    lost: int
    twice: int
    foreign: int
    again: int

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.steps} steps, {self.acked} outcomes acked: lost {self.lost}, "
            f"applied twice {self.twice}, of another attempt {self.foreign}, attempts run again {self.again}"
        )

    def assert_kept(self) -> None:
        """Every promise was kept."""
        assert (self.lost, self.twice, self.foreign, self.again) == (0, 0, 0, 0), self


def judge(records: Iterable[Run], lines: list[Line]) -> Verdict:
    """Compare the records of all runs with the ledger."""
    steps = {(run.run_id, step.path): step for run in records for step in run.steps if step.kind in HOST_KINDS}
    recorded = {(*key, attempt.number) for key, step in steps.items() for attempt in step.attempts}
    acked = {line.key for line in lines if line.event == "acked"}
    stamps = {line.event.removeprefix(STAMP): line.key for line in lines if line.event.startswith(STAMP)}
    begun = Counter(line.key for line in lines if line.event == "before")
    return Verdict(
        runs=len({run_id for run_id, _ in steps}),
        steps=len(steps),
        acked=len(acked),
        lost=len(acked - recorded),
        twice=sum(len(_successes(step)) > 1 for step in steps.values()),
        foreign=sum(not _is_own(key, step, stamps) for key, step in steps.items()),
        again=sum(times - 1 for times in begun.values()),
    )


def _successes(step: StepRecord) -> list[int]:
    return [attempt.number for attempt in step.attempts if attempt.failure is None]


def _is_own(key: tuple[str, str], step: StepRecord, stamps: dict[str, tuple[str, str, int]]) -> bool:
    """A step that succeeded has the stamp of the attempt that is recorded as its success."""
    if step.state is not StepState.SUCCEEDED:
        return not _successes(step)
    return [stamps.get(str(step.output))] == [(*key, number) for number in _successes(step)]


def family(client: ClientSync, *run_ids: str) -> list[Run]:
    """The records of runs and of all runs they invoked."""
    found = []
    for run_id in run_ids:
        record = client.get(run_id, steps=True)
        found += [record, *family(client, *(step.child_run_id for step in record.steps if step.child_run_id))]
    return found
