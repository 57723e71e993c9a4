"""Hypothesis strategies for every frame value, within the bounds of `proto/README.md`."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from stepwire.protocol import frames, paths, plan
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload

T = TypeVar("T")

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
COUNT = st.integers(1, 2**32 - 1)
NUMBER = st.integers(1, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ID = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
SECONDS = st.one_of(st.just(0.0), st.integers(1, 10**15).map(lambda nanos: nanos / 1e9))
TIMEOUT = st.none() | st.integers(1, 10**15).map(lambda nanos: nanos / 1e9)
TIME_MS = st.integers(0, 253_402_300_799_999)
NAMES = st.lists(TEXT, max_size=3).map(tuple)

PAYLOADS = st.builds(Payload, st.binary(max_size=40), st.sampled_from(["json", "cbor", "x-sealed"]), st.booleans())
FENCES = st.builds(plan.Fence, NUMBER, U64)
RETRIES = st.builds(
    plan.RetryPolicy,
    max_attempts=COUNT,
    backoff=st.sampled_from(plan.Backoff),
    delay=SECONDS,
    factor=st.floats(1, 1000),
    cap=SECONDS,
    jitter=st.floats(0, 1),
    non_retryable_types=NAMES,
)


def _failures(cause: st.SearchStrategy[Failure | None]) -> st.SearchStrategy[Failure]:
    return st.builds(
        Failure,
        code=st.sampled_from(ErrorCode),
        type=TEXT,
        message=TEXT,
        traceback=TEXT,
        retryable=st.sampled_from(Retryable),
        retry_after=st.none() | SECONDS,
        cause=cause,
    )


FAILURES = _failures(st.none() | _failures(st.none() | _failures(st.none())))


def either(build: type[T]) -> st.SearchStrategy[T]:
    """`build` with an output or with a failure."""
    return st.builds(build, output=PAYLOADS) | st.builds(build, failure=FAILURES)


def runs_of(items: st.SearchStrategy[T], **differing: st.SearchStrategy[Any]) -> st.SearchStrategy[list[T]]:
    """Lists in which some items are followed by others that differ in these fields alone: FEATURE_ALIKE is for them."""

    def run(first: T, others: list[dict[str, Any]]) -> list[T]:
        return [first, *[msgspec.structs.replace(first, **other) for other in others]]  # type: ignore[type-var]

    runs = st.builds(run, items, st.lists(st.fixed_dictionaries(differing), max_size=3))
    return st.lists(runs, max_size=3).map(lambda found: list(itertools.chain.from_iterable(found)))


SLEEPS = st.builds(plan.Sleep, duration=SECONDS) | st.builds(plan.Sleep, until_ms=TIME_MS)
WAITS = st.builds(plan.WaitEvent, event=NAME, match=TEXT, timeout=st.none() | SECONDS, lookback=SECONDS)
EVENT_DATA = st.sampled_from([b"null", b"17", b'{"a":["\xc3\xa9"]}']).map(Payload) | st.builds(
    Payload, st.binary(max_size=40), st.sampled_from(["cbor", "x-sealed"]), st.booleans()
)
TRACES = st.sampled_from(["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
EVENTS = st.builds(plan.Event, name=NAME, data=EVENT_DATA, id=ID, at_ms=st.none() | TIME_MS, traceparent=TRACES)
SENDS = st.builds(plan.SendEvent, st.lists(EVENTS, min_size=1, max_size=2).map(tuple))
INVOKES = st.builds(plan.Invoke, flow=NAME, id=ID)
CALLS = st.builds(
    plan.Call,
    url=NAME,
    method=st.sampled_from(["GET", "POST", "x"]),
    headers=st.lists(st.tuples(NAME, TEXT), max_size=2).map(tuple),
    body=st.none() | PAYLOADS,
    redact_output=st.booleans(),
    secret_headers=st.lists(st.builds(plan.SecretHeader, NAME, TEXT, st.sampled_from(["A", "_B9"])), max_size=2).map(
        tuple
    ),
)
UNDOS = st.builds(plan.Undo, st.just(plan.StepKind.RUN), retry=st.none() | RETRIES, timeout=TIMEOUT) | st.builds(
    plan.Undo, st.just(plan.StepKind.TASK), NAME, st.none() | RETRIES, TIMEOUT
)
_WORK = st.tuples(st.sampled_from([plan.StepKind.RUN, plan.StepKind.TASK]), TEXT, st.none())
_PERFORMED = st.one_of(
    st.tuples(st.just(plan.StepKind.SLEEP), TEXT, SLEEPS),
    st.tuples(st.just(plan.StepKind.WAIT_EVENT), TEXT, WAITS),
    st.tuples(st.just(plan.StepKind.SEND_EVENT), TEXT, SENDS),
    st.tuples(st.just(plan.StepKind.INVOKE), TEXT, INVOKES),
    st.tuples(st.just(plan.StepKind.CALL), st.just(plan.CALL_STEP), CALLS),
)


def _step(step: plan.StepPlanned, does: tuple[plan.StepKind, str, plan.StepSpec | None]) -> plan.StepPlanned:
    kind, name, spec = does
    return msgspec.structs.replace(step, kind=kind, name=name, spec=spec)


STEPS = st.builds(
    _step,
    st.builds(
        plan.StepPlanned,
        path=NAME,
        input=st.none() | PAYLOADS,
        retry=st.none() | RETRIES,
        timeout=TIMEOUT,
        started=st.booleans(),
        concurrent=st.booleans(),
        deadline=TIMEOUT,
        undo=st.none() | UNDOS,
        traceparent=TRACES,
    ),
    _WORK | _PERFORMED,
)
PLAIN_STEPS = st.builds(
    plan.StepPlanned,
    path=NAME,
    kind=st.sampled_from([plan.StepKind.RUN, plan.StepKind.TASK]),
    name=TEXT,
    retry=st.none() | RETRIES,
    timeout=TIMEOUT,
    started=st.booleans(),
    concurrent=st.booleans(),
    deadline=TIMEOUT,
)


def _group(group: plan.GroupOpened, quorum: int) -> plan.GroupOpened:
    return msgspec.structs.replace(group, quorum=quorum if group.fail is plan.FailPolicy.QUORUM else 0)


GROUPS = st.builds(
    _group,
    st.builds(
        plan.GroupOpened,
        path=NAME,
        branches=U32,
        mode=st.sampled_from(plan.ParallelMode),
        fail=st.sampled_from(plan.FailPolicy),
        cancel_siblings=st.booleans(),
        limit=U32,
        concurrent=st.booleans(),
        names=NAMES,
        deadline=TIMEOUT,
    ),
    COUNT,
)
BRANCHES = st.builds(
    plan.BranchEnded, NAME, st.sampled_from([plan.BranchOutcome.OK, plan.BranchOutcome.CANCELLED])
) | st.builds(plan.BranchEnded, NAME, st.just(plan.BranchOutcome.FAILED), FAILURES)
GROUP_ENDS = st.builds(
    plan.GroupEnded,
    path=NAME,
    verdict=st.sampled_from(plan.Verdict),
    winner=U32,
    losers=st.lists(U32, max_size=3).map(tuple),
)
BODY_ENDS = (
    either(plan.BodyEnded)
    | st.builds(plan.BodyEnded, restart=PAYLOADS)
    | st.builds(plan.BodyEnded, cancelled=st.just(True))
)
PLANS = st.builds(
    plan.Plan,
    plan_seq=NUMBER,
    after_release=U64,
    fence=FENCES,
    groups=st.lists(GROUPS, max_size=2).map(tuple),
    steps=runs_of(STEPS | PLAIN_STEPS, path=NAME).map(tuple),
    abandoned=st.lists(NAME, max_size=2).map(tuple),
    branches_ended=runs_of(BRANCHES, path=NAME).map(tuple),
    groups_ended=st.lists(GROUP_ENDS, max_size=2).map(tuple),
    body_ended=st.none() | BODY_ENDS,
)

RESULTS = st.builds(
    frames.Result, path=NAME, attempt=COUNT, fence=FENCES, output=PAYLOADS, elapsed=SECONDS
) | st.builds(frames.Result, path=NAME, attempt=COUNT, fence=FENCES, failure=FAILURES, elapsed=SECONDS)


def _outcome_of(result: frames.Result, data: bytes) -> frames.Result:
    """The result, with other data of the same sort if it has an output."""
    output = None if result.output is None else msgspec.structs.replace(result.output, data=data)
    return msgspec.structs.replace(result, output=output)


def _results(results: list[frames.Result], data: list[bytes]) -> list[frames.Result]:
    return [_outcome_of(result, other) for result, other in zip(results, itertools.cycle(data), strict=False)]


RESULT_LISTS = st.builds(
    _results, runs_of(RESULTS, path=NAME, elapsed=SECONDS), st.lists(st.binary(max_size=40), min_size=1, max_size=5)
)
ATTEMPTS = st.lists(st.builds(frames.AttemptInProgress, NAME, NAME, COUNT, FENCES, SECONDS), max_size=2).map(tuple)
BODIES = st.lists(st.builds(frames.LiveBody, NAME, FENCES, U64, U64), max_size=2).map(tuple)
FEATURES = st.lists(st.integers(1, 9), max_size=2).map(tuple)
FLOW_OPTIONS = st.lists(
    st.builds(
        frames.FlowOptions,
        flow=NAME,
        deadline=TIMEOUT,
        undo_on_cancel=st.booleans(),
        triggers=st.lists(st.builds(frames.Trigger, NAME, TEXT), max_size=2).map(tuple),
        redact_input=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda options: options.flow,
).map(tuple)


def _hello(hello: frames.Hello, options: tuple[frames.FlowOptions, ...]) -> frames.Hello:
    flows = (*hello.flows, *[item.flow for item in options])
    return msgspec.structs.replace(hello, flows=flows, flow_options=options)


_PLAIN_HELLOS = st.builds(
    frames.Hello,
    service=TEXT,
    instance_id=NAME,
    flows=NAMES,
    steps=NAMES,
    slots=U32,
    bodies=U32,
    protocol_min=st.integers(1, 9),
    protocol_max=st.integers(1, 9),
    required_features=FEATURES,
    build_id=TEXT,
    sdk_language=TEXT,
    sdk_version=TEXT,
    resume=st.none() | st.builds(frames.ResumeState, BODIES, ATTEMPTS, U64),
    ahead=U32,
    features=FEATURES,
)
HELLOS = st.builds(_hello, _PLAIN_HELLOS, FLOW_OPTIONS)
HOST_SECTIONS = st.builds(
    frames.HostSection,
    run_id=NAME,
    plans=st.lists(PLANS, max_size=2),
    results=RESULT_LISTS,
    rejects=st.lists(st.builds(frames.Reject, NAME, COUNT, FENCES, st.sampled_from(frames.RejectReason)), max_size=2),
    need_snapshot=st.none() | st.builds(frames.NeedSnapshot, FENCES, st.none() | U64, st.booleans()),
    body_failed=st.none() | st.builds(frames.BodyFailed, FENCES, FAILURES),
)
DRAINS = st.none() | st.builds(frames.Drain, SECONDS)
GOODBYES = st.none() | st.builds(frames.Goodbye, TEXT)
FAULTS = st.none() | st.builds(frames.Fault, st.sampled_from(ErrorCode), TEXT, TEXT)
LINES = st.builds(
    frames.LogLine,
    path=st.just("") | NAME,
    attempt=U32,
    age=SECONDS,
    level=U32,
    logger=TEXT,
    message=TEXT,
)
RUN_LOGS = st.builds(frames.RunLogs, NAME, st.lists(LINES, max_size=3).map(tuple), U32)
HOST_FRAMES = st.builds(
    frames.HostFrame,
    position=U64,
    hello=st.none() | HELLOS,
    runs=st.lists(HOST_SECTIONS, max_size=2),
    report=st.none() | st.builds(frames.Report, U32, U32, SECONDS, U64, ATTEMPTS),
    drain=DRAINS,
    goodbye=GOODBYES,
    fault=FAULTS,
    logs=st.lists(RUN_LOGS, max_size=2),
)

OUTCOMES = (
    st.builds(frames.StepOutcome, path=NAME, output=PAYLOADS, attempts=COUNT, took_ms=U32)
    | st.builds(frames.StepOutcome, path=NAME, failure=FAILURES, attempts=COUNT, took_ms=U32)
    | st.builds(frames.StepOutcome, path=NAME, held=st.just(True), attempts=COUNT, took_ms=U32)
)
RELEASES = st.builds(frames.Release, NUMBER, TIME_MS, runs_of(OUTCOMES, path=NAME, took_ms=U32).map(tuple))
ADVANCES = st.builds(
    frames.Advance,
    fence=FENCES,
    entries=st.lists(PLANS | RELEASES, max_size=3).map(tuple),
    start=st.none() | st.builds(frames.BodyStart, NAME, PAYLOADS, U64, TIME_MS, TRACES),
    hold=st.booleans(),
    more=st.booleans(),
    purpose=st.sampled_from(frames.Purpose),
)
_EXECUTED = st.builds(
    frames.Execute,
    path=NAME,
    attempt=COUNT,
    fence=FENCES,
    kind=st.sampled_from([plan.StepKind.RUN, plan.StepKind.TASK]),
    name=TEXT,
    input=st.none() | PAYLOADS,
    timeout=TIMEOUT,
    flow=TEXT,
    traceparent=TRACES,
)
UNDO_INPUTS = st.builds(frames.UndoInput, PAYLOADS, st.none() | FAILURES)


def _call(execute: frames.Execute, call: plan.Call) -> frames.Execute:
    return msgspec.structs.replace(execute, kind=plan.StepKind.CALL, call=call)


def _undo(execute: frames.Execute, undo: frames.UndoInput) -> frames.Execute:
    return msgspec.structs.replace(execute, path=paths.undo_path(execute.path), undo=undo)


EXECUTES = _EXECUTED | st.builds(_call, _EXECUTED, CALLS) | st.builds(_undo, _EXECUTED, UNDO_INPUTS)
ENGINE_SECTIONS = st.builds(
    frames.EngineSection,
    run_id=NAME,
    continued=st.none() | FENCES,
    advance=st.none() | ADVANCES,
    executes=st.lists(EXECUTES, max_size=2),
    cancels=st.lists(st.builds(frames.Cancel, TEXT, FENCES, st.sampled_from(frames.CancelReason), SECONDS), max_size=2),
    evict=st.none() | FENCES,
)
WELCOMES = st.builds(
    frames.Welcome,
    session_id=TEXT,
    protocol=st.integers(1, 9),
    features=FEATURES,
    heartbeat_interval=SECONDS,
    session_ttl=SECONDS,
    payload_bytes_max=U64,
    steps_per_run_max=U32,
    branches_per_group_max=U32,
    group_depth_max=U32,
    default_retry=RETRIES,
    peers=NAMES,
    engine_version=TEXT,
)
ENGINE_FRAMES = st.builds(
    frames.EngineFrame,
    number=U64,
    welcome=st.none() | WELCOMES,
    acked_position=U64,
    runs=st.lists(ENGINE_SECTIONS, max_size=2),
    drain=DRAINS,
    goodbye=GOODBYES,
    fault=FAULTS,
)
