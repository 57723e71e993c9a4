"""The context of a trace goes with what it caused: into plans, attempts, children, events, successors (MISSION V5)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyStart, Execute, FlowOptions, Trigger
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BodyEnded, Event, Invoke, SendEvent, StepKind, StepPlanned, Undo
from stepwire_engine.core import causes
from stepwire_engine.core.entries import Entry, RunCreated
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import durable_view
from stepwire_engine.core.units import EventRecord
from tests.session.desk import INPUT, Desk, Host

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STEP = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"


def started(traceparent: str = CALLER, **hello: Any) -> tuple[Desk, Host]:
    desk = Desk()
    host = desk.host(**hello)
    desk.core.start_run(
        "r", run_id="r", seed=7, flow="flow", payload=INPUT, key="", now=desk.now, traceparent=traceparent
    )
    desk.settle()
    return desk, host


def starts(host: Host) -> list[BodyStart]:
    return [s.advance.start for s in host.take() if s.advance is not None and s.advance.start is not None]


def created(desk: Desk, flow: str) -> RunCreated:
    entries = [entry for rows in desk.rows.rows.values() for row in rows for entry in row]
    (found,) = [entry for entry in entries if isinstance(entry, RunCreated) and entry.flow == flow]
    return found


def task(path: str = "s", **how: Any) -> StepPlanned:
    return StepPlanned(path, StepKind.TASK, "work", Payload(b"[[],{}]"), **how)


# ---- the run


def test_the_caller_s_context_reaches_every_body_also_after_a_restart() -> None:
    desk, host = started()
    assert [start.traceparent for start in starts(host)] == [CALLER]
    desk.restart()
    again = desk.host("other")
    desk.settle()
    desk.jump(60)
    assert [start.traceparent for start in starts(again)] == [CALLER]


def test_the_state_of_a_traced_run_is_the_fold_of_its_journal() -> None:
    desk, host = started()
    host.plan(task(traceparent=STEP), task("t"))
    desk.settle()
    run = desk.core.runs["r"]
    assert durable_view(rebuild(run.number, desk.rows.journal(run.number))) == durable_view(run)
    assert (run.steps["s"].traceparent, run.steps["t"].traceparent) == (STEP, CALLER)


def test_a_journal_of_an_engine_without_traces_can_be_read() -> None:
    made = RunCreated("r", "flow", NULL, 7, 1)
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(made))
    step = msgspec.msgpack.decode(msgspec.msgpack.encode(StepPlanned("s")))
    assert packed[-1] == step[-1] == ""
    assert msgspec.convert(packed[:-1], Entry) == made
    assert msgspec.convert(step[:-1], StepPlanned) == StepPlanned("s")


@pytest.mark.parametrize("traceparent", ["", CALLER])
def test_exemplars_of_durations_name_the_trace_if_there_is_one(traceparent: str) -> None:
    desk, host = started(traceparent)
    host.end()
    desk.settle()
    (ended,) = desk.core.counters.runs_ended
    assert ended.labels == {"run_id": "r"} | ({"trace_id": CALLER[3:35]} if traceparent else {})


# ---- what it causes


def executed(host: Host) -> list[Execute]:
    return host.executes()


def test_attempts_get_the_context_of_their_step_or_of_the_run() -> None:
    desk, host = started()
    host.take()
    host.plan(task(traceparent=STEP), task("t"), StepPlanned("closure", traceparent=STEP))
    desk.settle()
    found = {execute.path: execute.traceparent for execute in executed(host)}
    assert found == {"s": STEP, "t": CALLER, "closure": STEP}


def test_an_undo_gets_the_context_of_the_step_that_it_undoes() -> None:
    desk, host = started("")
    host.plan(task(traceparent=STEP, undo=Undo(StepKind.TASK, "work")))
    desk.settle()
    host.ok("s")
    desk.settle()
    host.take()
    host.plan(body_ended=BodyEnded(failure=Failure(ErrorCode.USER_ERROR, "ValueError", "no")))
    desk.settle()
    assert [(execute.path, execute.traceparent) for execute in executed(host)] == [("s#undo", STEP)]


@pytest.mark.parametrize(("of_step", "expected"), [(STEP, STEP), ("", CALLER)])
def test_a_child_gets_the_context_of_the_step(of_step: str, expected: str) -> None:
    desk, host = started(flows=("flow", "sub"))
    host.plan(StepPlanned("i", StepKind.INVOKE, input=NULL, spec=Invoke("sub"), traceparent=of_step))
    desk.settle()
    assert created(desk, "sub").traceparent == expected


def test_a_run_that_a_step_s_event_starts_gets_the_context_of_the_step() -> None:
    options = (FlowOptions("sub", triggers=(Trigger("paid"),)),)
    desk, host = started(flows=("flow", "sub"), flow_options=options)
    sent = SendEvent((Event("paid", id="e"),))
    host.plan(StepPlanned("tell", StepKind.SEND_EVENT, spec=sent, traceparent=STEP))
    desk.settle()
    assert created(desk, "sub").traceparent == STEP


def test_a_run_that_a_client_s_event_starts_gets_the_client_s_context() -> None:
    desk, _ = started("", flows=("flow", "sub"), flow_options=(FlowOptions("sub", triggers=(Trigger("paid"),)),))
    now_ms = desk.now.unix_ms
    desk.core.send_event("t", EventRecord("e", "paid", NULL, now_ms, now_ms, traceparent=CALLER), desk.now)
    desk.settle()
    assert created(desk, "sub").traceparent == CALLER


def test_a_run_that_handles_a_failure_gets_the_context_of_the_run_that_failed() -> None:
    options = (FlowOptions("sub", triggers=(Trigger(causes.RUN_FAILED_EVENT),)),)
    desk, host = started(flows=("flow", "sub"), flow_options=options)
    host.plan(body_ended=BodyEnded(failure=Failure(ErrorCode.USER_ERROR, "ValueError", "no")))
    desk.settle()
    assert created(desk, "sub").traceparent == CALLER


def test_a_successor_gets_the_context_of_its_predecessor() -> None:
    desk, host = started()
    host.plan(body_ended=BodyEnded(restart=NULL))
    desk.settle()
    assert desk.core.runs[causes.successor_run_id("r")].traceparent == CALLER
