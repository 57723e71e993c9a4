"""What is durable and what really ran, side by side: the invariants that can be checked while a history is played.

Commits are told here when they are in the store, executions when a host begins or ends them. An execution is *known*
while the engine that gave it runs and its host's link has not been cut since it was given: of others the engine may
know less than we do, so what it promises of several executions holds for known ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from stepwire.protocol import paths
from stepwire.protocol.frames import CancelReason, EngineSection, Execute, Result
from stepwire.protocol.payload import Payload
from stepwire_engine.core.books import Commit
from stepwire_engine.core.entries import (
    AttemptEnded,
    Entry,
    Planned,
    RunCreated,
    RunEnded,
    RunPaused,
    RunState,
    RunStopping,
    UndoPlanned,
)
from stepwire_engine.core.model import Step
from stepwire_engine.core.units import EventMatched, EventRecord, InboxRow, Receipt
from tests.simulation.hosts import Execution
from tests.simulation.programs import GroupOp, Op, SimFlow, places


class RunFacts:
    """What the store has of one run, as far as it matters before its end.

    Attributes:
        outputs: Of steps and undos that succeeded.
        over: Paths of steps and undos with a final outcome.
        late: Steps that failed by their deadline.
        planned_at: Index of the unit that planned a step.
    """

    def __init__(self, created: RunCreated, number: int) -> None:
        self.created = created
        self.number = number
        self.state = RunState.PENDING
        self.rows: list[tuple[Entry, ...]] = []
        self.outputs: dict[str, Payload] = {}
        self.over: set[str] = set()
        self.late: set[str] = set()
        self.planned_at: dict[str, int] = {}
        self.stopping: RunStopping | None = None
        self.undo_order: tuple[str, ...] | None = None
        self.undo_generation = 0
        self.body_ended = False
        self.ended: RunEnded | None = None
        self.pauses: list[RunPaused] = []
        self.dormant = False


class Truth:
    """Ground truth of one history.

    Args:
        flows: Of the world.
        stop_grace: Of the engine's configuration.
        note: Told of rare branches that were reached.
    """

    def __init__(self, flows: dict[str, SimFlow], stop_grace: float, note: Callable[[str], None]) -> None:
        self._note = note
        self._stop_grace = stop_grace
        self.places: dict[str, dict[str, tuple[Op, tuple[str, ...]]]] = {
            name: {path: (op, limits) for path, op, limits in places(flow.program)} for name, flow in flows.items()
        }
        self.runs: dict[str, RunFacts] = {}
        self.by_number: dict[int, RunFacts] = {}
        self.accepted: list[tuple[int, float, EventRecord]] = []
        """Index of the unit, time of its commit, and the event as stored."""
        self.delivered: set[int] = set()
        self.inbox: dict[int, InboxRow] = {}
        self.executions: list[Execution] = []
        self.running: dict[str, list[Execution]] = defaultdict(list)
        self.flows_stored_at: float | None = None
        self._index = 0

    def op(self, run_id: str, path: str) -> Op:
        """What stands at a path of a run's flow."""
        return self.places[self.runs[run_id].created.flow][path][0]

    # ---- commits

    def committed(self, commit: Commit, receipt: Receipt, now: float, generation: int) -> None:
        """A unit is in the store."""
        unit = commit.unit
        self._index += 1
        if unit.sessions and any(record.flow_options for record in unit.sessions) and self.flows_stored_at is None:
            self.flows_stored_at = now
        for number in unit.inbox_done:
            self.inbox.pop(number, None)
        for row, number in zip(unit.inbox, receipt.inbox, strict=True):
            self.inbox[number] = row
        for event, number in zip(unit.events, receipt.events, strict=True):
            if number:
                stored = EventRecord(event.id, event.name, event.data, event.due_ms, event.sent_ms, number)
                self.accepted.append((self._index, now, stored))
        self.delivered.update(unit.events_delivered)
        if unit.run is not None:
            self._run_committed(commit, unit.run, generation)

    def _run_committed(self, commit: Commit, number: int, generation: int) -> None:
        unit = commit.unit
        facts = self.by_number.get(number)
        if facts is None:
            created = unit.entries[0]
            assert isinstance(created, RunCreated)
            facts = self.by_number[number] = self.runs[created.run_id] = RunFacts(created, number)
        if unit.entries:
            assert facts.ended is None, f"{facts.created.run_id} goes on after its end"
            assert len(facts.rows) == unit.expected_seq
            facts.rows.append(unit.entries)
        for entry in unit.entries:
            self._entry(facts, entry, generation)
        if unit.record is not None:
            facts.state = unit.record.state
            facts.dormant = unit.record.state is RunState.WAITING

    def _entry(self, facts: RunFacts, entry: Entry, generation: int) -> None:
        match entry:
            case Planned(plan=plan):
                assert facts.stopping is None, "a plan of a stopping run"
                facts.planned_at.update(dict.fromkeys([step.path for step in plan.steps], self._index))
                facts.body_ended = plan.body_ended is not None
            case AttemptEnded(retry_at_ms=None):
                assert entry.path not in facts.over, f"{entry.path} has two outcomes"
                facts.over.add(entry.path)
                if entry.output is not None:
                    facts.outputs[entry.path] = entry.output
                elif entry.failure is not None and entry.failure.type == "StepTimeout":
                    facts.late.add(entry.path)
            case RunStopping():
                facts.stopping = entry
            case UndoPlanned():
                facts.undo_order = tuple([paths.undo_path(path) for path in entry.paths])
                facts.undo_generation = generation
            case RunPaused():
                facts.pauses.append(entry)
            case RunEnded():
                facts.ended = entry
            case _:
                pass

    def woke(self, commit: Commit) -> None:
        """Say what brought a dormant run back; call it before `committed`."""
        unit = commit.unit
        facts = None if unit.run is None else self.by_number.get(unit.run)
        if facts is None or not facts.dormant or unit.record is None or unit.record.state is RunState.WAITING:
            return
        causes = {type(self.inbox[number].fact).__name__ for number in unit.inbox_done if number in self.inbox}
        stops = any(isinstance(entry, RunStopping) for entry in unit.entries)
        if EventMatched.__name__ in causes:
            self._note("dormant run woken by an event")
        elif "ChildEnded" in causes:
            self._note("dormant run woken by its child")
        elif "CancelRun" in causes:
            self._note("dormant run woken by its parent's end")
        elif stops and unit.entries and isinstance(unit.entries[0], RunStopping):
            late = unit.entries[0].failure is not None
            self._note("dormant run woken by its deadline" if late else "dormant run woken by cancel")
        else:
            self._note("dormant run woken by a timer")

    # ---- executions

    def begins(self, execution: Execution, execute: Execute, generation: int, *, started: bool) -> None:
        """A host begins to run code. Raises AssertionError if it must not."""
        facts = self.runs.get(execution.run_id)
        where = f"{execution.run_id} {execution.path} attempt {execution.attempt} on {execution.host.instance}"
        if not started:
            assert facts is not None, where
            assert execution.path not in facts.outputs, f"{where}: its success is durable"
        others = [e for e in self.running[execution.run_id] if e.known and execution.known]
        same = [e for e in others if e.path == execution.path]
        assert not same, f"{where}: attempt {same[0].attempt} is still executing on {same[0].host.instance}"
        if execution.undo:
            assert facts is not None
            self._begins_undo(facts, execution, execute, others, where)
            if facts.undo_generation != generation:
                self._note("undo after engine crash")
        else:
            assert execution.run_id not in execution.host.stopped, f"{where}: it was told that the run stops"
            self._check_limits(execution, others, where)
        self.executions.append(execution)
        self.running[execution.run_id].append(execution)

    def _begins_undo(
        self, facts: RunFacts, execution: Execution, execute: Execute, others: list[Execution], where: str
    ) -> None:
        assert facts.stopping is not None and facts.undo_order is not None, f"{where}: the run is not stopping"
        before = facts.undo_order[: facts.undo_order.index(execution.path)]
        assert facts.over.issuperset(before), f"{where}: {set(before) - facts.over} come first"
        assert not [e for e in others if e.undo], f"{where}: another undo is executing"
        if others:
            waited = execution.began - (facts.stopping.at_ms - 1_700_000_000_000) / 1000
            assert waited >= self._stop_grace - 0.001, f"{where}: {others[0].path} has not stopped, {waited:.3f} s"
            self._note("undo while an attempt does not stop")
        undone = paths.undone_path(execution.path)
        assert undone is not None and execute.undo is not None
        assert execute.undo.output == facts.outputs[undone], f"{where}: called with another output"
        cancelled = facts.stopping.state is RunState.CANCELLED
        assert (execute.undo.failure is None) is cancelled, f"{where}: called with {execute.undo.failure}"

    def _check_limits(self, execution: Execution, others: list[Execution], where: str) -> None:
        facts = self.runs.get(execution.run_id)
        if facts is None or not execution.known:
            return
        known = self.places[facts.created.flow]
        for group in known[execution.path][1]:
            op = known[group][0]
            assert isinstance(op, GroupOp)
            inside = [e.path for e in others if group in known.get(e.path, (None, ()))[1]]
            assert len(inside) < op.limit, f"{where}: limit {op.limit} of {group}, executing: {inside}"
            if len(inside) + 1 == op.limit:
                self._note("limit of a group reached")

    def acked(self, execution: Execution, result: Result, step: Step | None) -> None:
        """A host was told that it may forget a success. Raises AssertionError if that is lost.

        Args:
            step: As the engine has it; None: the plan that began it was dropped with its body.
        """
        if step is None or step.state.final or execution.attempt < step.attempt:
            return
        where = f"{execution.run_id} {execution.path} attempt {execution.attempt} on {execution.host.instance}"
        given_away = step.fence is not None and step.fence > result.fence
        assert given_away, f"{where}: its success was acked and is nowhere"

    def ended(self, execution: Execution) -> None:
        """A host told the outcome, or was lost with it."""
        self.running[execution.run_id].remove(execution)
        facts = self.runs.get(execution.run_id)
        if facts is not None and execution.path in facts.late and execution.stop is None:
            self._note("deadline passed while a result was in flight")

    # ---- frames

    def told(self, section: EngineSection) -> bool:
        """Whether this section, sent now, tells a host that the run stops."""
        facts = self.runs.get(section.run_id)
        if facts is None or facts.stopping is None:
            return False
        forward = [execute.path for execute in section.executes if execute.undo is None]
        assert not forward, f"{section.run_id} is stopping, yet {forward} are given out"
        cancelled = any(cancel.reason is CancelReason.RUN_CANCELLED for cancel in section.cancels)
        return bool(section.evict or cancelled or section.executes)
