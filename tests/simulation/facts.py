"""What the store has of one run, kept as it is committed, as far as it matters before the run's end."""

from __future__ import annotations

from stepwire.protocol import paths
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence
from stepwire_engine.core.entries import (
    AttemptEnded,
    Entry,
    Planned,
    Released,
    RunCreated,
    RunEnded,
    RunPaused,
    RunState,
    RunStopping,
    UndoPlanned,
)


class RunFacts:
    """The durable facts of one run.

    Attributes:
        outputs: Of steps and undos that succeeded.
        over: Paths of steps and undos with a final outcome.
        late: Steps that failed by their deadline.
        attempts: The last attempt of a step that has an outcome.
        retries: The attempt of a step that comes next, and its time in milliseconds.
        releases: Releases on record.
        lost: When branches lost, by the beginning of the paths in them.
        planned_at: Index of the unit that planned a step.
        planned_under: Fence of the body that planned a step.
        stopped_at: When it was on record that the run stops, in the world's time.
        unreadable: The engine was told that its journal cannot be read.
    """

    def __init__(self, created: RunCreated, number: int) -> None:
        self.created = created
        self.number = number
        self.state = RunState.PENDING
        self.rows: list[tuple[Entry, ...]] = []
        self.outputs: dict[str, Payload] = {}
        self.over: set[str] = set()
        self.late: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.retries: dict[str, tuple[int, int]] = {}
        self.releases = 0
        self.lost: dict[str, float] = {}
        self.planned_at: dict[str, int] = {}
        self.planned_under: dict[str, Fence] = {}
        self.stopping: RunStopping | None = None
        self.stopped_at = 0.0
        self.undo_order: tuple[str, ...] | None = None
        self.undo_generation = 0
        self.body_ended = False
        self.ended: RunEnded | None = None
        self.pauses: list[RunPaused] = []
        self.dormant = False
        self.unreadable = False

    def add(self, entry: Entry, index: int, now: float, generation: int) -> None:
        """An entry is on record.

        Args:
            index: Of its unit.
        """
        match entry:
            case Planned():
                self._planned(entry, index, now)
            case AttemptEnded():
                self._attempt_ended(entry)
            case Released():
                assert entry.release_seq == self.releases + 1, f"I5: release {entry.release_seq} after {self.releases}"
                self.releases = entry.release_seq
            case RunStopping():
                self.stopping = entry
                self.stopped_at = now
            case UndoPlanned():
                self.undo_order = tuple([paths.undo_path(path) for path in entry.paths])
                self.undo_generation = generation
            case RunPaused():
                self.pauses.append(entry)
            case RunEnded():
                self.ended = entry
            case _:
                pass

    def _planned(self, entry: Planned, index: int, now: float) -> None:
        """I8: a run that stops decides nothing more."""
        plan = entry.plan
        assert self.stopping is None, f"I8: a plan of {self.created.run_id}, which stops"
        self.planned_under.update(dict.fromkeys([step.path for step in plan.steps], plan.fence))
        self.planned_at.update(dict.fromkeys([step.path for step in plan.steps], index))
        for ended in plan.groups_ended:
            self.lost.update({paths.branch_path(ended.path, loser) + "/": now for loser in ended.losers})
        self.body_ended = plan.body_ended is not None

    def _attempt_ended(self, entry: AttemptEnded) -> None:
        """I2: a step has one outcome. I5: attempts count up by one."""
        where = f"{self.created.run_id} {entry.path}"
        assert entry.path not in self.over, f"I2: {where} has two outcomes"
        assert entry.attempt == self.attempts.get(entry.path, 0) + 1, f"I5: {where}: attempt {entry.attempt}"
        self.attempts[entry.path] = entry.attempt
        if entry.retry_at_ms is not None:
            self.retries[entry.path] = entry.attempt + 1, entry.retry_at_ms
            return
        self.over.add(entry.path)
        if entry.output is not None:
            self.outputs[entry.path] = entry.output
        elif entry.failure is not None and entry.failure.type == "StepTimeout":
            self.late.add(entry.path)

    def lost_since(self, path: str) -> float | None:
        """When the branch around a path lost, if one did."""
        return min([at for branch, at in self.lost.items() if path.startswith(branch)], default=None)
