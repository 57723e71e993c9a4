"""The expected run records of the example flows, and both kinds of records in the form they are compared in.

A record is a list of lines: the run, its groups, its steps in order of planning. What depends on the machine
(times, hosts, ids) is left out.
"""

from __future__ import annotations

from typing import Any

from stepwire.client import Run
from stepwire_engine.core.history import RunView

Record = list[str]

COFFEE: Record = [
    "make_coffee SUCCEEDED",
    "group parallel WAIT any OK [OK OK OK]",
    "parallel/[0]/check-coffee-beans run SUCCEEDED 1",
    "parallel/[1]/check-cups run SUCCEEDED 1",
    "parallel/[2]/check-milk run SUCCEEDED 1",
    "brew-coffee run SUCCEEDED 1",
]

ACCOUNTS: Record = [
    "fetch_accounts SUCCEEDED",
    "group parallel WAIT any OK [OK OK]",
    "authenticate call SUCCEEDED 1",
    "parallel/[0]/fetch-users call SUCCEEDED 1",
    "parallel/[1]/fetch-products call SUCCEEDED 1",
    "combine run SUCCEEDED 1",
]

PAYMENT: Record = [
    "after_payment SUCCEEDED",
    "group parallel WAIT any OK [OK OK]",
    "parallel/[0]/confirmation-email run SUCCEEDED 1",
    "parallel/[1]/update-user run SUCCEEDED 1",
]

WAIT: Record = [
    "wait SUCCEEDED",
    "group parallel WAIT any OK [OK OK]",
    "parallel/[0]/a run SUCCEEDED 1",
    "parallel/[1]/x run SUCCEEDED 1",
    "parallel/[0]/b run SUCCEEDED 1",
    "parallel/[1]/y run SUCCEEDED 1",
]

RACE: Record = [
    "race SUCCEEDED",
    "group parallel RACE any OK [OK OK]",
    "parallel/[0]/a run SUCCEEDED 1",
    "parallel/[1]/x run SUCCEEDED 1",
    "parallel/[0]/b run SUCCEEDED 1",
    "parallel/[1]/y run SUCCEEDED 1",
]

SUMMARIZE: Record = [
    "summarize SUCCEEDED",
    "group map WAIT any limit 4 OK [OK OK OK OK OK]",
    *(f"map/[{i}]/summarize-chunk-{i} run SUCCEEDED 1" for i in range(5)),
    "summarize-summaries run SUCCEEDED 1",
]

PROCESS_DATA: Record = [
    "process-data SUCCEEDED",
    "group fetch-data WAIT all OK [OK FAILED]",
    "fetch-data/[0]/fetch-user run SUCCEEDED 1",
    "fetch-data/[1]/fetch-posts run FAILED 1",
    "process-all run SUCCEEDED 1",
]

PROCESS_DATA_STRICT: Record = [
    "process-data-strict FAILED group_failed",
    "group fetch-data WAIT any FAILED [OK FAILED]",
    "fetch-data/[0]/fetch-user run SUCCEEDED 1",
    "fetch-data/[1]/fetch-posts run FAILED 1",
]

ORDER_SAGA: Record = [
    "place_order FAILED group_failed",
    "group parallel WAIT any FAILED [FAILED OK]",
    "reserve run SUCCEEDED 1",
    "parallel/[0]/charge task FAILED 1",
    "parallel/[1]/label run SUCCEEDED 1",
    "parallel/[1]/label#undo run SUCCEEDED 1",
    "reserve#undo run SUCCEEDED 1",
]


def of_view(run: RunView) -> Record:
    """A record as the engine has it in memory."""
    lines = [_run_line(run.flow, run.state.name, run.failure)]
    for group in run.groups:
        outcomes = [outcome.name if outcome else "-" for outcome in group.outcomes]
        verdict = group.verdict.name if group.verdict else "open"
        lines.append(_group_line(group.path, group.mode.name, group.fail.name.lower(), group.limit, verdict, outcomes))
    lines += [f"{s.path} {s.kind.name.lower()} {s.state.name} {len(s.attempts)}" for s in run.steps]
    return lines


def of_run(run: Run) -> Record:
    """A record as a client gets it."""
    lines = [_run_line(run.flow, str(run.state), run.failure)]
    for group in run.groups:
        outcomes = [outcome or "-" for outcome in group.outcomes]
        lines.append(_group_line(group.path, group.mode, group.fail, group.limit, group.verdict or "open", outcomes))
    lines += [f"{s.path} {s.kind} {s.state} {len(s.attempts)}" for s in run.steps]
    return lines


def _run_line(flow: str, state: str, failure: Any) -> str:
    return f"{flow} {state}" + (f" {failure.code.slug}" if failure is not None else "")


def _group_line(path: str, mode: str, fail: str, limit: int, verdict: str, outcomes: list[str]) -> str:
    bound = f"limit {limit} " if limit else ""
    return f"group {path} {mode} {fail} {bound}{verdict} [{' '.join(outcomes)}]"
