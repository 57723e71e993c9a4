"""What a committed row adds to the counters, so that their totals are those of the records (MISSION V1).

It looks at entries that are durable, once per commit: nothing that was refused is counted, nothing twice. What is
never journaled, such as frames and dispatches, is counted where it happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.plan import ParallelMode, Plan, StepKind, Verdict
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.entries import AttemptEnded, Planned, RunPaused
from stepwire_engine.core.model import Run, Step, StepState
from stepwire_engine.core.turn import Turn

_KINDS: Mapping[StepKind, str] = {kind: kind.name.lower() for kind in StepKind}
_MODES: Mapping[ParallelMode, str] = {mode: mode.name.lower() for mode in ParallelMode}
_VERDICTS: Mapping[Verdict, str] = {verdict: verdict.name.lower() for verdict in Verdict}


def count(counters: Counters, turn: Turn) -> None:
    """The turn's row is committed.

    Successes of the same kind in a row are counted at once: a wide group has thousands of them in one row.
    """
    run = turn.run
    steps = run.steps
    kind: StepKind | None = None
    name, succeeded = "", 0
    for entry in turn.entries:
        if type(entry) is AttemptEnded:
            step = steps[entry.path]
            if step.kind is not kind:
                if succeeded:
                    _succeeded(counters, name, succeeded)
                kind, succeeded = step.kind, 0
                name = _KINDS[kind]
                seconds = counters.attempt_seconds[name]
                durations = counters.step_duration_seconds[name]
            seconds.append(entry.elapsed)
            if entry.failure is None:
                succeeded += 1
            else:
                _failed(counters, run.flow, name, entry.failure, retried=entry.retry_at_ms is not None)
            if entry.retry_at_ms is None:
                took_ms = entry.at_ms - step.planned_ms
                durations.append(took_ms / 1000 if took_ms > 0 else 0.0)
        elif type(entry) is Planned:
            _planned(counters, run, entry.plan)
        elif type(entry) is RunPaused:
            _paused(counters, entry)
    if succeeded:
        _succeeded(counters, name, succeeded)
    for step in turn.let_go:
        if step.state is StepState.CANCELLED:
            counters.steps_finished[_KINDS[step.kind], "cancelled"] += 1


def given_out(counters: Counters, steps: Iterable[Step], unix_ms: int) -> None:
    """Attempts at these steps were given to a host."""
    waited = counters.schedule_to_start_seconds
    for step in steps:
        late_ms = unix_ms - (step.planned_ms if step.retry_at_ms is None else step.retry_at_ms)
        waited[_KINDS[step.kind]].append(late_ms / 1000 if late_ms > 0 else 0.0)


def _succeeded(counters: Counters, kind: str, count: int) -> None:
    counters.attempts[kind, "ok"] += count
    counters.steps_finished[kind, "succeeded"] += count


def _failed(counters: Counters, flow: str, kind: str, failure: Failure, *, retried: bool) -> None:
    counters.attempts[kind, "timeout" if failure.code is ErrorCode.TIMEOUT else "failed"] += 1
    if failure.code is ErrorCode.POISON_STEP:
        counters.poison["step"] += 1
    if retried:
        counters.retries[flow] += 1
    else:
        counters.steps_finished[kind, "failed"] += 1


def _planned(counters: Counters, run: Run, plan: Plan) -> None:
    for opened in plan.groups:
        counters.group_width[_MODES[opened.mode]].append(opened.branches)
    for ended in plan.groups_ended:
        mode = run.groups[ended.path].opened.mode
        counters.groups_finished[_MODES[mode], _VERDICTS[ended.verdict]] += 1
    for step in plan.steps:
        if step.started:
            counters.host_starts += 1
            counters.schedule_to_start_seconds[_KINDS[step.kind]].append(0.0)


def _paused(counters: Counters, entry: RunPaused) -> None:
    if entry.failure.code is ErrorCode.POISON_STEP:
        counters.poison["flow"] += 1
