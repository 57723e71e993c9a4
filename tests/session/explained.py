"""What must be true of every core at every moment: everything open has a reason and exactly one owner."""

from __future__ import annotations

from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.model import Run
from stepwire_engine.core.reasons import Lacks, WaitReason, present_undo, run_reason, step_reason


def unexplained(core: EngineCore, now_unix_ms: int) -> list[str]:
    """Open runs and steps in memory for which nobody could say why they do not move."""
    lacks = Lacks(core.sessions, lambda: False)
    found: list[str] = []
    for run in core.runs.values():
        if run.state.terminal or not run.committed_seq:
            continue
        if run_reason(run.state, run, now_unix_ms, lacks) is None:
            found.append(run.run_id)
        found += _steps(run, now_unix_ms, lacks)
    return found


def _steps(run: Run, now_unix_ms: int, lacks: Lacks) -> list[str]:
    undo = present_undo(run)
    reasons: list[tuple[str, WaitReason | None]] = [
        (step.path, step_reason(step, step, undo, now_unix_ms, lacks, run.state)) for step in run.open_steps()
    ]
    return [f"{run.run_id} {path}" for path, reason in reasons if reason is None]
