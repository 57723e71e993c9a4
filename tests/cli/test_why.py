"""`stepwire runs why` in real situations of the core: the sentences are those of `golden/why/*.txt`.

`STEPWIRE_GOLDEN=write` writes them anew; read the difference before you keep it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from stepwire._transport.explanation import Explanation, explanation_from_pb
from stepwire.codec import JSON_CODEC
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyFailed, Drain, HostFrame, HostSection, Report
from stepwire.protocol.plan import (
    BodyEnded,
    GroupOpened,
    Invoke,
    RetryPolicy,
    Sleep,
    StepKind,
    StepPlanned,
    StepSpec,
    Undo,
    WaitEvent,
)
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.cli.documents import page
from stepwire_engine.cli.why import why_lines
from stepwire_engine.cli.why_document import Why, why_document
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.explanation import explain
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.history import run_view
from stepwire_engine.core.reasons import Lacks
from stepwire_engine.transport.run_messages import explanation_to_pb
from tests.session.desk import CONFIG, Desk, Host, running, task

GOLDEN = Path(__file__).parent / "golden" / "why"
SITUATIONS: dict[str, Callable[[], Desk]] = {}


def situation(make: Callable[[], Desk]) -> Callable[[], Desk]:
    SITUATIONS[make.__name__] = make
    return make


def asked(desk: Desk, run_id: str = "r") -> Explanation:
    """What a client gets that asks about the run now."""
    record = desk.rows.store.find_run(run_id)
    assert record is not None
    rows = desk.rows.journal(record.number)
    live = desk.core.runs.get(run_id)
    lacks = Lacks(desk.core.sessions, lambda: len(desk.core.runs) >= desk.config.runs_in_memory_max)
    view = run_view(
        record.number,
        rows,
        live=live,
        now_unix_ms=desk.now.unix_ms,
        include_steps=True,
        lacks=lacks,
        waiting=record.state is RunState.WAITING,
    )
    run = live if live is not None and not live.broken else rebuild(record.number, rows)
    answer = pb.ExplainResponse()
    explanation_to_pb(explain(view, run, desk.core.sessions, desk.now), answer)
    return explanation_from_pb(pb.ExplainResponse.FromString(answer.SerializeToString()), JSON_CODEC)


def document(desk: Desk) -> Why:
    return why_document(asked(desk))


def performed(path: str, spec: StepSpec) -> StepPlanned:
    kinds = {Sleep: StepKind.SLEEP, WaitEvent: StepKind.WAIT_EVENT, Invoke: StepKind.INVOKE}
    return StepPlanned(path, kinds[type(spec)], spec=spec)


def waiting(spec: StepSpec) -> tuple[Desk, Host]:
    return running(performed("w", spec))


def asleep(desk: Desk) -> Desk:
    desk.pass_time(2 * CONFIG.live_idle + 1.0)
    assert "r" not in desk.core.runs
    return desk


# ---- situations


@situation
def nobody_serves_the_flow() -> Desk:
    desk = Desk()
    desk.host("mail", flows=(), steps=("send",))
    desk.start()
    desk.settle()
    return desk.pass_time(5.0)


@situation
def nobody_is_connected() -> Desk:
    desk = Desk()
    desk.start()
    return desk.settle()


@situation
def nobody_serves_the_step() -> Desk:
    desk, _ = running(StepPlanned("charge", StepKind.TASK, "charge"))
    return desk


@situation
def every_slot_is_taken() -> Desk:
    desk = Desk()
    host = desk.host("shop", slots=1)
    desk.start()
    desk.settle()
    host.plan(task("a"), task("b"))
    desk.settle()
    return desk.pass_time(3.0)


@situation
def bodies_are_full() -> Desk:
    desk = Desk()
    desk.host("shop", bodies=1)
    desk.start("first")
    desk.settle()
    desk.start()
    return desk.settle()


@situation
def a_host_executes() -> Desk:
    desk, _ = running(task("a", timeout=60.0, deadline=120.0))
    return desk.pass_time(12.0)


@situation
def the_host_is_disconnected() -> Desk:
    desk, host = running(task("a"), "c")
    host.cut()
    return desk.pass_time(1.0, beat=False)


@situation
def an_attempt_does_not_stop() -> Desk:
    desk, _ = running(task("a", timeout=1.0))
    return desk.pass_time(5.0)


@situation
def it_waits_for_its_next_attempt() -> Desk:
    desk, host = running(task("a", retry=RetryPolicy(max_attempts=5, delay=60.0, jitter=0.0)))
    host.failed("a")
    return desk.settle()


@situation
def it_sleeps_in_memory() -> Desk:
    desk, _ = waiting(Sleep(duration=60.0))
    return desk


@situation
def it_sleeps_on_disk() -> Desk:
    desk, _ = waiting(Sleep(duration=86_400.0))
    return asleep(desk)


@situation
def it_waits_for_an_event() -> Desk:
    desk, _ = waiting(WaitEvent("paid", "data.order == `17`", timeout=3600.0))
    return asleep(desk)


@situation
def it_waits_for_any_event_of_a_name() -> Desk:
    desk, _ = waiting(WaitEvent("paid"))
    return desk


@situation
def it_waits_for_its_child() -> Desk:
    desk, _ = waiting(Invoke("flow"))
    return desk


@situation
def its_group_has_no_place() -> Desk:
    desk, host = running()
    host.plan(*[task(f"g/[{n}]/s") for n in range(3)], groups=(GroupOpened("g", 3, limit=2),))
    return desk.settle()


@situation
def every_host_lags() -> Desk:
    desk, host = running()
    host.raw(HostFrame(report=Report(1, 1, 30.0, 0, ())))
    host.plan(task("a"))
    return desk.settle()


@situation
def every_host_is_stopping() -> Desk:
    desk, host = running()
    host.raw(HostFrame(drain=Drain(30.0)))
    host.plan(task("a"))
    return desk.settle()


@situation
def the_engine_was_restarted() -> Desk:
    desk, _ = running(task("a"))
    desk.restart()
    return desk.settle()


@situation
def user_code_runs() -> Desk:
    desk, _ = running()
    return desk.pass_time(7.0)


@situation
def it_is_paused() -> Desk:
    desk, host = running(task("a"))
    failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "the plan differs at step 3")
    section = HostSection("r", body_failed=BodyFailed(host.seqs["r"][0], failure))
    host.raw(HostFrame(position=host.session._position + 1, runs=[section]))
    return desk.settle()


@situation
def it_is_being_cancelled() -> Desk:
    desk, host = running(task("a", undo=Undo(StepKind.TASK, "refund")), task("b"))
    host.ok("a")
    desk.settle()
    desk.core.cancel_run("c", "r", undo=True, now=desk.now)
    return desk.settle()


@situation
def it_is_being_undone() -> Desk:
    desk, host = running(task("a", undo=Undo(StepKind.TASK, "refund")), task("b", undo=Undo(StepKind.TASK, "work")))
    host.ok("a")
    host.ok("b")
    desk.settle()
    host.plan(body_ended=BodyEnded(None, Failure(ErrorCode.USER_ERROR, "ValueError", "no stock")))
    return desk.settle()


@situation
def its_commit_is_on_its_way() -> Desk:
    desk, host = running()
    desk.held = True
    host.plan(task("a"))
    return desk.settle()


@situation
def it_lost_its_host_before() -> Desk:
    desk, host = running(task("a"))
    host.cut()
    desk.pass_time(5.0)
    desk.host("other", slots=1)
    return desk.settle()


@situation
def the_engine_has_no_room() -> Desk:
    desk = Desk(config=msgspec.structs.replace(CONFIG, runs_in_memory_max=1))
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(performed("w", Sleep(duration=60.0)))
    desk.settle()
    asleep(desk)
    desk.start("other")
    desk.settle()
    return desk.pass_time(60.0)


@situation
def a_closure_waits_for_the_host_of_its_body() -> Desk:
    desk = Desk()
    host = desk.host("shop", slots=1)
    desk.start()
    desk.settle()
    host.plan("a", "b")
    desk.settle()
    host.cut()
    return desk.pass_time(1.0, beat=False)


@situation
def every_host_reads_too_slowly() -> Desk:
    desk, host = running()
    assert host.engine is not None
    desk.core.congestion(host.engine, host.stream, True, desk.now)
    host.plan(task("a"))
    return desk.settle()


@situation
def it_succeeded() -> Desk:
    desk, host = running()
    host.end()
    return desk.settle()


@situation
def it_failed() -> Desk:
    desk, host = running(task("a", retry=RetryPolicy(max_attempts=1)))
    host.failed("a")
    desk.settle()
    host.plan(body_ended=BodyEnded(None, Failure(ErrorCode.USER_ERROR, "ValueError", "no\nstock")))
    return desk.settle()


# ---- what is said


@pytest.mark.parametrize("name", sorted(SITUATIONS))
def test_it_says_in_sentences_why_the_run_does_not_move(name: str) -> None:
    said = "\n".join(why_lines(document(SITUATIONS[name]()))) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("STEPWIRE_GOLDEN") == "write":
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8")


def test_every_golden_text_is_of_a_situation() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == SITUATIONS.keys()


@pytest.mark.parametrize("name", sorted(SITUATIONS))
def test_every_open_run_says_what_comes_next(name: str) -> None:
    lines = why_lines(document(SITUATIONS[name]()))
    assert any(line.startswith("next: ") for line in lines), lines
    assert all(line.isprintable() for line in lines)


def test_the_document_has_the_same_facts_for_scripts() -> None:
    why = msgspec.json.decode(page(document(a_host_executes())))
    assert why["schema"] == "stepwire.why/v1"
    assert why["run"]["steps"][0]["reason"] == "lease_of_host"
    (step,) = why["open_steps"]
    assert (step["path"], step["attempt"], step["holder"]["service"]) == ("a", 1, "h")
    assert why["services"] == [
        {
            "service": "h", "hosts": 1, "serving_flow": 1, "busy": 1, "slots": 100, "lagging": 0, "draining": 0,
            "serving_steps": ["work"],
        }
    ]  # fmt: skip


def test_of_many_open_steps_some_are_shown_and_all_are_counted() -> None:
    desk, _ = running(*[task(f"s{number}") for number in range(150)])
    why = document(desk)
    assert (len(why.open_steps), why.open_steps_count) == (100, 150)
    assert "  and 130 further steps (-o json has up to 100)" in why_lines(why)
