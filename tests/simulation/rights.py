"""What an engine may say to hosts, beside what is durable: nothing that is over, under rights that only rise."""

from __future__ import annotations

from collections.abc import Mapping

from stepwire.protocol.frames import CancelReason, EngineFrame, EngineSection, Execute, Release
from stepwire.protocol.plan import Fence, Plan
from tests.simulation.facts import RunFacts


class Rights:
    """Judges the frames of all engines of one history.

    Args:
        runs: What is durable, by run.
    """

    def __init__(self, runs: Mapping[str, RunFacts]) -> None:
        self._runs = runs
        self._given: dict[tuple[str, str], Fence] = {}
        """The highest right to execute a step, or with path "" to hold a body, that left for some host."""

    def sent(self, frame: EngineFrame) -> None:
        """The engine speaks to a host."""
        for section in frame.runs:
            if section.advance is not None:
                if section.advance.start is not None:
                    self._rises(section.run_id, "", section.advance.fence)
                for entry in section.advance.entries:
                    self._told(section.run_id, entry)
            for execute in section.executes:
                self._executes(section.run_id, execute)

    def _told(self, run_id: str, entry: Plan | Release) -> None:
        """I1: no body is told what a crash can still take back."""
        if isinstance(entry, Release):
            releases = self._runs[run_id].releases
            assert entry.release_seq <= releases, f"I1: {run_id}: release {entry.release_seq} left before its commit"

    def _executes(self, run_id: str, execute: Execute) -> None:
        """I3: no Execute for a run or a step that is over. I8: none but undos for one that stops."""
        facts = self._runs.get(run_id)
        where = f"{run_id} {execute.path} attempt {execute.attempt}"
        assert facts is not None, f"I1: {where} is given out before its run is on record"
        assert facts.ended is None, f"I3: {where} is given out after the end of its run"
        assert execute.path not in facts.over, f"I3: {where} is given out after its outcome"
        lost = execute.undo is None and facts.lost_since(execute.path) is not None
        assert not lost, f"I6: {where} is given out of a branch that lost"
        assert execute.attempt > facts.attempts.get(execute.path, 0), f"I5: {where} is given out again"
        self._rises(run_id, execute.path, execute.fence)

    def _rises(self, run_id: str, path: str, fence: Fence) -> None:
        """I4: fences strictly rise."""
        before = self._given.get((run_id, path))
        assert before is None or before < fence, f"I4: {run_id} {path} is given out under {fence} after {before}"
        self._given[run_id, path] = fence

    def stops(self, section: EngineSection) -> bool:
        """Whether this section, sent now, tells a host that the run stops."""
        facts = self._runs.get(section.run_id)
        if facts is None or facts.stopping is None:
            return False
        forward = [execute.path for execute in section.executes if execute.undo is None]
        assert not forward, f"I8: {section.run_id} is stopping, yet {forward} are given out"
        cancelled = any(cancel.reason is CancelReason.RUN_CANCELLED for cancel in section.cancels)
        return bool(section.evict or cancelled or section.executes)
