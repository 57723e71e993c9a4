"""What is durable and what really ran, side by side: the invariants that can be checked while a history is played.

Each message begins with the invariant that is broken: I1 nothing answered is lost, I2 one applied result, I3 nothing is
given out that is over, I4 one live lease and rising fences, I5 only forward, I7 not early, I8 compensation, I9 bounded
executions. The others need the whole history, and are in `endings.py`.

Commits are told here when they are in the store, executions when a host begins or ends them. An execution is *known*
while the engine that gave it runs and its host's link has not been cut since it was given: of others the engine may
know less than we do, so what it promises of several executions holds for known ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from stepwire.protocol import paths
from stepwire.protocol.frames import Execute, Result
from stepwire.protocol.plan import Fence
from stepwire_engine.core.books import Commit
from stepwire_engine.core.entries import AttemptEnded, RunCreated, RunState, RunStopping
from stepwire_engine.core.model import Run
from stepwire_engine.core.units import EventMatched, EventRecord, InboxRow, Receipt
from tests.simulation.clocks import DRIFT_MAX, EPOCH_MS, Clock
from tests.simulation.facts import RunFacts as RunFacts
from tests.simulation.hosts import Execution
from tests.simulation.programs import GroupOp, Op, SimFlow, places
from tests.simulation.rights import Rights

TOLD_SECONDS = 0.5
"""Within this time a host is told what it need not execute any more."""


class Truth:
    """Ground truth of one history.

    Args:
        flows: Of the world.
        stop_grace: Of the engine's configuration.
        note: Told of rare branches that were reached.
        clock: Of the engine's machine.
    """

    def __init__(self, flows: dict[str, SimFlow], stop_grace: float, note: Callable[[str], None], clock: Clock) -> None:
        self._clock = clock
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
        self.rights = Rights(self.runs)
        self._executed: set[tuple[str, str, int, Fence]] = set()
        self._unreadable: set[int] = set()
        self._stuck: set[str] = set()
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
            self._run_committed(commit, unit.run, now, generation)

    def _run_committed(self, commit: Commit, number: int, now: float, generation: int) -> None:
        """I5: rows follow each other without a gap, and none follows the end."""
        unit = commit.unit
        facts = self.by_number.get(number)
        if facts is None:
            created = unit.entries[0]
            assert isinstance(created, RunCreated)
            facts = self.by_number[number] = self.runs[created.run_id] = RunFacts(created, number)
        if unit.entries:
            assert facts.ended is None, f"I5: {facts.created.run_id} goes on after its end"
            assert len(facts.rows) == unit.expected_seq, f"I5: {facts.created.run_id} has a gap in its rows"
            facts.rows.append(unit.entries)
        for entry in unit.entries:
            facts.add(entry, self._index, now, generation)
            if isinstance(entry, AttemptEnded):
                self._check_newest(facts, entry)
        if unit.record is not None:
            assert not facts.state.terminal, f"I5: {facts.created.run_id} is {facts.state.name} and goes on"
            facts.state = unit.record.state
            facts.dormant = unit.record.state is RunState.WAITING

    # ---- journals that cannot be read

    def unreadable(self, number: int) -> None:
        """The engine was told that this run's journal cannot be read."""
        if number in self._unreadable:
            return
        self._unreadable.add(number)
        facts = self.by_number[number]
        facts.unreadable = True
        self._stuck = set()
        waiting: list[RunFacts] = [facts]
        while waiting:
            stuck = waiting.pop()
            self._stuck.add(stuck.created.run_id)
            parent = stuck.created.parent
            if parent is not None and parent.run_id not in self._stuck and parent.run_id in self.runs:
                waiting.append(self.runs[parent.run_id])

    def submitted(self, commits: list[Commit]) -> None:
        """What the engine wants written: nothing of a run that it could not read."""
        for commit in commits:
            known = commit.unit.run in self._unreadable and bool(commit.unit.entries)
            assert not known, f"I5: run number {commit.unit.run} cannot be read and goes on"

    def stuck(self) -> set[str]:
        """Runs that need not end: one that cannot be read, and those that invoked it."""
        return self._stuck

    def is_for(self, row: InboxRow, stuck: set[str]) -> bool:
        """Whether a fact waits for a run that is stuck."""
        if not stuck:
            return False
        facts = self.by_number.get(row.run)
        named = getattr(row.fact, "run_id", "")
        return named in stuck or (facts is not None and facts.created.run_id in stuck)

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
            assert facts is not None, f"I1: {where}: its run is not on record"
            over = execution.known and execution.path in facts.outputs
            assert not over, f"I3: {where}: its success is durable"
            self._check_due(facts, execution, where)
            right = execution.run_id, execution.path, execution.attempt, execute.fence
            assert right not in self._executed, f"I9: {where} executes again under {execute.fence}"
            self._executed.add(right)
        others = [e for e in self.running[execution.run_id] if e.known and execution.known]
        same = [e for e in others if e.path == execution.path]
        twice = (execution.run_id, execution.path) in execution.host.running
        assert not twice, f"I4: {where}: this host is still executing it"
        assert not same, f"I4: {where}: attempt {same[0].attempt} is still executing on {same[0].host.instance}"
        if execution.undo:
            assert facts is not None
            self._begins_undo(facts, execution, execute, others, where)
            if facts.undo_generation != generation:
                self._note("undo after engine crash")
        else:
            assert execution.run_id not in execution.host.stopped, f"I8: {where}: it was told that the run stops"
            self._check_limits(execution, others, where)
        self.executions.append(execution)
        self.running[execution.run_id].append(execution)

    def _begins_undo(
        self, facts: RunFacts, execution: Execution, execute: Execute, others: list[Execution], where: str
    ) -> None:
        assert facts.stopping is not None and facts.undo_order is not None, f"I8: {where}: the run is not stopping"
        before = facts.undo_order[: facts.undo_order.index(execution.path)]
        assert facts.over.issuperset(before), f"I8: {where}: {set(before) - facts.over} come first"
        assert not [e for e in others if e.undo], f"I8: {where}: another undo is executing"
        if others:
            waited = execution.began - facts.stopped_at
            assert waited >= self._stop_grace * (1 - DRIFT_MAX) - 0.001, (
                f"I8: {where}: {others[0].path} has not stopped, {waited:.3f} s"
            )
            self._note("undo while an attempt does not stop")
        undone = paths.undone_path(execution.path)
        assert undone is not None and execute.undo is not None
        assert execute.undo.output == facts.outputs[undone], f"I8: {where}: called with another output"
        cancelled = facts.stopping.state is RunState.CANCELLED
        assert (execute.undo.failure is None) is cancelled, f"I8: {where}: called with {execute.undo.failure}"

    def _check_due(self, facts: RunFacts, execution: Execution, where: str) -> None:
        """I7: a retry waits for its time. It may have been given out before somebody set the clock back."""
        attempt, at_ms = facts.retries.get(execution.path, (0, 0))
        if execution.attempt == attempt and not self._clock.jumped:
            early = at_ms - EPOCH_MS - execution.began * 1000
            assert early <= 1, f"I7: {where} began {early:.0f} ms before its time"

    def _check_newest(self, facts: RunFacts, ended: AttemptEnded) -> None:
        """The outcome is not one of an older holder of the step, while a newer one is known to execute it."""
        run_id = facts.created.run_id
        newer = [e for e in self.running[run_id] if e.path == ended.path and e.known and e.attempt == ended.attempt]
        for execution in newer:
            number = _made_by(ended)
            where = f"I2: {run_id} {ended.path} attempt {ended.attempt}"
            assert number is None or number >= execution.number, f"{where} ended by {number} beside {execution.number}"

    def _check_limits(self, execution: Execution, others: list[Execution], where: str) -> None:
        facts = self.runs.get(execution.run_id)
        if facts is None or not execution.known:
            return
        known = self.places[facts.created.flow]
        for group in known[execution.path][1]:
            op = known[group][0]
            assert isinstance(op, GroupOp)
            inside = [e.path for e in others if group in known.get(e.path, (None, ()))[1]]
            assert len(inside) < op.limit, f"I6: {where}: limit {op.limit} of {group}, executing: {inside}"
            if len(inside) + 1 == op.limit:
                self._note("limit of a group reached")

    def acked(self, execution: Execution, result: Result, run: Run) -> None:
        """A host was told that it may forget a success. Raises AssertionError if that is lost.

        Args:
            run: As the engine has it. It may miss the step, if the plan that began it was dropped with its body.
        """
        step = run.steps.get(execution.path)
        if step is None or step.state.final or execution.attempt < step.attempt:
            return
        where = f"{execution.run_id} {execution.path} attempt {execution.attempt} on {execution.host.instance}"
        planned = self.runs[execution.run_id].planned_under.get(execution.path)
        given_away = step.fence is not None and step.fence > result.fence
        if planned is None:  # It was begun for a plan that never counted, and now another body plans it.
            given_away = given_away or run.body is None or run.body.fence != result.fence
        elif planned > result.fence:
            given_away = True
        assert given_away, f"I1: {where}: its success was acked and is nowhere"

    def ended(self, execution: Execution) -> None:
        """A host told the outcome, or was lost with it."""
        self.running[execution.run_id].remove(execution)
        facts = self.runs.get(execution.run_id)
        lost = None if facts is None or execution.undo else facts.lost_since(execution.path)
        if execution.known and execution.stop is None and execution.ended is not None and lost is not None:
            where = f"{execution.run_id} {execution.path}"
            told = max(lost, execution.host.awake_since) + TOLD_SECONDS
            assert execution.ended <= told, f"I6: {where} lost at {lost:.3f} and was not told to stop"
        if facts is not None and execution.path in facts.late and execution.stop is None:
            self._note("deadline passed while a result was in flight")


def _made_by(ended: AttemptEnded) -> int | None:
    """The number of the execution that an output stems from."""
    if ended.output is None or b"@" not in ended.output.data:
        return None
    number = ended.output.data.strip().rpartition(b"@")[2].rstrip(b'"')
    return int(number) if number.isdigit() else None
