"""What `stepwire runs show` prints for people: the tree, then what does not fit into a tree. Pure: values to text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click
import msgspec

from stepwire_engine.cli.documents import Failure, Run, Step, value_line
from stepwire_engine.cli.terminal import printable
from stepwire_engine.cli.tree import duration_text, failure_text, tree_lines

VALUE_COLUMNS_MAX = 2_000
"""Longer inputs and outputs are cut; `-o json` has all of them."""


def record_lines(run: Run, now: datetime) -> list[str]:
    """The run for people, without an end to what may be learnt from it.

    Args:
        now: For the durations of what has not ended.
    """
    facts = {
        "id": printable(run.id),
        "parent": f"run {printable(run.parent_run_id)}" if run.parent_run_id else "",
        "created": f"{run.created_at:%Y-%m-%d %H:%M:%S.%fZ}" if run.created_at else "",
        "input": _cut(value_line(run.input, run.input_redacted_bytes)),
        "output": _cut(value_line(run.output, run.output_redacted_bytes)) if run.state == "SUCCEEDED" else "",
        "stats": "  ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(run.stats).items()),
    }
    return [
        *tree_lines(run, now),
        "",
        *(f"{name:<8} {text}" for name, text in facts.items() if text),
        *(text for step in run.steps for text in _attempts(step)),
        *(_failure(run.failure) if run.failure is not None else ()),
        *not_undone_lines(run),
    ]


def not_undone_lines(run: Run) -> Iterator[str]:
    """Compensations that failed, last and loudly: somebody has to put this right by hand."""
    if not run.not_undone:
        return
    yield ""
    yield click.style("NOT UNDONE: the effects of these steps are still there", fg="red", bold=True)
    for undo in run.not_undone:
        failure = undo.attempts[-1].failure if undo.attempts else None
        yield f"  {printable(undo.undoes)}  {failure_text(failure) if failure is not None else ''}".rstrip()


def _attempts(step: Step) -> Iterator[str]:
    """Attempts of a step that did not simply succeed."""
    if not any(attempt.failure for attempt in step.attempts):
        return
    yield ""
    yield f"{printable(step.path)}:"
    for attempt in step.attempts:
        outcome = failure_text(attempt.failure) if attempt.failure is not None else "succeeded"
        at = f"  on {printable(attempt.host)}" if attempt.host else ""
        yield f"  attempt {attempt.number}  {duration_text(attempt.elapsed_seconds)}{at}  {outcome}"


def _failure(failure: Failure) -> Iterator[str]:
    yield ""
    yield f"failed with {failure_text(failure)} ({failure.code})"
    cause: Failure | None = failure
    while cause is not None:
        if cause is not failure:
            yield f"caused by {failure_text(cause)} ({cause.code})"
        yield from (f"  {text}" for text in printable(cause.traceback.rstrip(), "\n").splitlines())
        cause = cause.cause


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_COLUMNS_MAX else f"{text[:VALUE_COLUMNS_MAX]}… (all of it: -o json)"
