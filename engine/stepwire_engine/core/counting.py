"""What a committed row adds to the counters, so that their totals are those of the records (MISSION V1).

It looks at entries that are durable, once per commit: nothing that was refused is counted, nothing twice. What is
never journaled, such as frames and dispatches, is counted where it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.plan import ParallelMode, StepKind, Verdict
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.entries import AttemptEnded, Planned, RunPaused
from stepwire_engine.core.model import Run, StepState
from stepwire_engine.core.turn import Turn

_KINDS: Mapping[StepKind, str] = {kind: kind.name.lower() for kind in StepKind}
_MODES: Mapping[ParallelMode, str] = {mode: mode.name.lower() for mode in ParallelMode}
_VERDICTS: Mapping[Verdict, str] = {verdict: verdict.name.lower() for verdict in Verdict}


def count(counters: Counters, turn: Turn) -> None:
    """The turn's row is committed."""
    run = turn.run
    for entry in turn.entries:
        counted = _COUNT.get(type(entry))
        if counted is not None:
            counted(counters, run, entry)
    for step in turn.let_go:
        if step.state is StepState.CANCELLED:
            counters.steps_finished[_KINDS[step.kind], "cancelled"] += 1


def schedule_to_start(counters: Counters, kind: StepKind, seconds: float) -> None:
    """An attempt that was due so long ago was given to a host."""
    counters.schedule_to_start_seconds[_KINDS[kind]].append(seconds)


def _attempt_ended(counters: Counters, run: Run, entry: AttemptEnded) -> None:
    step = run.steps[entry.path]
    kind = _KINDS[step.kind]
    failure = entry.failure
    if failure is None:
        outcome, state = "ok", "succeeded"
    else:
        outcome, state = ("timeout" if failure.code is ErrorCode.TIMEOUT else "failed"), "failed"
        if failure.code is ErrorCode.POISON_STEP:
            counters.poison["step"] += 1
    counters.attempts[kind, outcome] += 1
    counters.attempt_seconds[kind].append(entry.elapsed)
    if entry.retry_at_ms is not None:
        counters.retries[run.flow] += 1
        return
    counters.steps_finished[kind, state] += 1
    took_ms = entry.at_ms - step.planned_ms
    counters.step_duration_seconds[kind].append(took_ms / 1000 if took_ms > 0 else 0.0)


def _planned(counters: Counters, run: Run, entry: Planned) -> None:
    plan = entry.plan
    for opened in plan.groups:
        counters.group_width[_MODES[opened.mode]].append(opened.branches)
    for ended in plan.groups_ended:
        mode = run.groups[ended.path].opened.mode
        counters.groups_finished[_MODES[mode], _VERDICTS[ended.verdict]] += 1
    for step in plan.steps:
        if step.started:
            counters.host_starts += 1
            counters.schedule_to_start_seconds[_KINDS[step.kind]].append(0.0)


def _paused(counters: Counters, run: Run, entry: RunPaused) -> None:
    if entry.failure.code is ErrorCode.POISON_STEP:
        counters.poison["flow"] += 1


_COUNT: Mapping[type, Callable[[Counters, Run, Any], None]] = {
    AttemptEnded: _attempt_ended,
    Planned: _planned,
    RunPaused: _paused,
}
