"""What steps, events and flow options must keep to: the last value that is allowed, and the first that is not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from stepwire.protocol import bounds
from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire.protocol.limits import DURATION_SECONDS_MAX
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    Call,
    Event,
    Invoke,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    StepSpec,
    Undo,
    WaitEvent,
)
from tests.protocol.strategies import FLOW_OPTIONS, STEPS

NAME = "é" * 128
"""Bytes count, not characters: this name has 256."""
HEADERS = (("accept", "*/*"),) * 100

ALLOWED: list[StepSpec] = [
    Sleep(0.0),
    Sleep(DURATION_SECONDS_MAX),
    Sleep(until_ms=-1),
    WaitEvent(NAME, "x" * 1024, 0.0, DURATION_SECONDS_MAX),
    SendEvent((Event(NAME, id=NAME),) * 100),
    SendEvent((Event("e", Payload(b'{"a": [1.5e3, "\xc3\xa9"]}')), Event("e", Payload(b"\xff", "x-sealed")))),
    Invoke(NAME, NAME),
    Call("u" * 8192, "M" * 32, (*HEADERS[1:], (NAME, "v" * 8192))),
]
REFUSED: list[tuple[StepSpec, str]] = [
    (Sleep(), "exactly one"),
    (Sleep(1.0, 1), "exactly one"),
    (Sleep(-0.001), "duration of -0.001 s"),
    (Sleep(math.nan), "duration of nan s"),
    (Sleep(math.inf), "duration of inf s"),
    (WaitEvent(""), "the name of an event has 0 bytes"),
    (WaitEvent(NAME + "x"), "the name of an event has 257 bytes"),
    (WaitEvent("e", "x" * 1025), "a match has 1025 bytes"),
    (WaitEvent("e", timeout=-1.0), "timeout"),
    (WaitEvent("e", lookback=-1.0), "lookback"),
    (SendEvent(()), "1 to 100 events, not 0"),
    (SendEvent((Event("e"),) * 101), "not 101"),
    (SendEvent((Event("e"), Event(""))), "the name of an event has 0 bytes"),
    (SendEvent((Event("e", id=NAME + "x"),)), "the id of an event has 257 bytes"),
    (SendEvent((Event("\ud800"),)), "not valid Unicode"),
    *[
        (SendEvent((Event("e", Payload(data)),)), "the data of an event are not JSON")
        for data in (b"", b"{", b"1 2", b"NaN", b'"\xff"', b"[" * 100_000)
    ],
    (Invoke(""), "the name of a flow has 0 bytes"),
    (Invoke("f", NAME + "x"), "an idempotency key has 257 bytes"),
    (Call(""), "a URL has 0 bytes"),
    (Call("u" * 8193), "a URL has 8193 bytes"),
    (Call("u", ""), "a method has 0 bytes"),
    (Call("u", "M" * 33), "a method has 33 bytes"),
    (Call("u", headers=HEADERS * 2), "at most 100 headers, not 200"),
    (Call("u", headers=(("", ""),)), "the name of a header has 0 bytes"),
    (Call("u", headers=(("a", "v" * 8193),)), "a header has 8193 bytes"),
]


@pytest.mark.parametrize("spec", ALLOWED, ids=lambda spec: type(spec).__name__)
def test_what_a_step_may_do(spec: StepSpec) -> None:
    assert bounds.spec_problem(spec) is None


@pytest.mark.parametrize(("spec", "problem"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_step_may_not_do(spec: StepSpec, problem: str) -> None:
    assert problem in (bounds.spec_problem(spec) or "")


@pytest.mark.parametrize(
    ("undo", "problem"),
    [
        (Undo(), ""),
        (Undo(StepKind.TASK, NAME, timeout=0.0), ""),
        (Undo(StepKind.TASK), "the name of a registered step has 0 bytes"),
        (Undo(StepKind.RUN, "release"), "has no name"),
        (Undo(timeout=-1.0), "timeout"),
        (Undo(StepKind.TASK, "release", timeout=math.nan), "timeout"),
        *[(Undo(kind, "x"), f"not {kind.name}") for kind in StepKind if kind > StepKind.TASK],
    ],
)
def test_compensations(undo: Undo, problem: str) -> None:
    found = bounds.undo_problem(undo)
    assert (problem in found) if found and problem else (found is None and not problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (FlowOptions(NAME, 0.0, True, (Trigger(NAME, "x" * 1024),) * 64), ""),
        (FlowOptions(""), "the name of a flow has 0 bytes"),
        (FlowOptions("f", -1.0), "deadline"),
        (FlowOptions("f", triggers=(Trigger("e"),) * 65), "at most 64 triggers, not 65"),
        (FlowOptions("f", triggers=(Trigger("e"), Trigger(""))), "the event of a trigger has 0 bytes"),
        (FlowOptions("f", triggers=(Trigger("e", "x" * 1025),)), "a match has 1025 bytes"),
    ],
)
def test_options_of_flows(options: FlowOptions, problem: str) -> None:
    found = bounds.options_problem(options)
    assert (problem in found) if found and problem else (found is None and not problem)


@given(STEPS)
def test_what_the_tests_of_the_wire_plan_is_allowed(step: StepPlanned) -> None:
    assert step.spec is None or type(step.spec) is bounds.SPEC_OF[step.kind]
    assert step.spec is None or bounds.spec_problem(step.spec) is None
    assert step.undo is None or bounds.undo_problem(step.undo) is None


@given(FLOW_OPTIONS)
def test_what_the_tests_of_the_wire_register_is_allowed(options: tuple[FlowOptions, ...]) -> None:
    assert [bounds.options_problem(item) for item in options] == [None] * len(options)
