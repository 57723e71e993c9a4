"""The values of the golden frames. Append only: a vector's value never changes."""

from __future__ import annotations

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import (
    Advance,
    AttemptInProgress,
    BodyFailed,
    BodyStart,
    Cancel,
    CancelReason,
    Drain,
    EngineFrame,
    EngineSection,
    Execute,
    Fault,
    FlowOptions,
    Goodbye,
    Hello,
    HostFrame,
    HostSection,
    LiveBody,
    LogLine,
    NeedSnapshot,
    Purpose,
    Reject,
    RejectReason,
    Release,
    Report,
    Result,
    ResumeState,
    RunLogs,
    StepOutcome,
    Trigger,
    UndoInput,
    Welcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    Backoff,
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    Call,
    Event,
    FailPolicy,
    Fence,
    GroupEnded,
    GroupOpened,
    Invoke,
    ParallelMode,
    Plan,
    RetryPolicy,
    SecretHeader,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    Undo,
    Verdict,
    WaitEvent,
)

BODY = Fence(1, 7)
CALLER_SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STEP_SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"
RETRY = RetryPolicy(3, Backoff.LINEAR, 0.25, 0.0, 5.0, 0.5, ("Fatal",))
FAILED = Failure(
    ErrorCode.USER_ERROR,
    "PaymentDeclined",
    "card expired",
    "at charge (orders:17)",
    Retryable.NO,
    1.5,
    Failure(ErrorCode.TIMEOUT, "Timeout", "no answer in 10 s", retryable=Retryable.YES),
)

P1 = Plan(
    1,
    0,
    BODY,
    (GroupOpened("parallel", 2),),
    (StepPlanned("parallel/[0]/a", started=True), StepPlanned("parallel/[1]/x", started=True)),
)
REL1 = Release(
    1, 1_790_000_000_123, (StepOutcome("parallel/[0]/a", held=True), StepOutcome("parallel/[1]/x", held=True))
)
A_RELEASED = Release(1, 1_790_000_000_123, (StepOutcome("parallel/[0]/a", Payload(b"1"), took_ms=2),))
P2 = Plan(
    2,
    1,
    BODY,
    steps=(StepPlanned("parallel/[0]/b", started=True), StepPlanned("parallel/[1]/y", started=True)),
)
P3 = Plan(
    3,
    2,
    BODY,
    branches_ended=(BranchEnded("parallel/[0]", BranchOutcome.OK), BranchEnded("parallel/[1]", BranchOutcome.OK)),
    groups_ended=(GroupEnded("parallel", Verdict.OK),),
    body_ended=BodyEnded(output=Payload(b"[1,2]")),
)


def result(path: str, data: bytes) -> Result:
    return Result(path, 1, BODY, Payload(data), elapsed=0.002)


FRAMES: dict[str, HostFrame | EngineFrame] = {
    "host-hello": HostFrame(
        hello=Hello(
            "orders",
            "5f0c9e",
            ("checkout",),
            ("charge", "refund"),
            16,
            200,
            required_features=(1,),
            build_id="v42",
            sdk_language="go",
            sdk_version="0.1.0",
        )
    ),
    "host-hello-resume": HostFrame(
        hello=Hello(
            "orders",
            "5f0c9e",
            ("checkout",),
            resume=ResumeState(
                (LiveBody("run-1", BODY, 1, 3),),
                (AttemptInProgress("run-1", "parallel/[1]/y", 1, BODY, 3.0),),
                4,
            ),
        )
    ),
    "engine-welcome": EngineFrame(1, Welcome("s-1", features=(1, 2), peers=("e1:7380", "e2:7380"))),
    "engine-advance-start": EngineFrame(
        2,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(BODY, start=BodyStart("checkout", Payload(b'{"id":17}'), 2**63, 1_790_000_000_000)),
            )
        ],
    ),
    "host-plan-2x2": HostFrame(1, runs=[HostSection("run-1", plans=[P1], results=[result("parallel/[0]/a", b"1")])]),
    "host-plan-end": HostFrame(5, runs=[HostSection("run-1", plans=[P3])]),
    "engine-advance-release": EngineFrame(
        3, acked_position=2, runs=[EngineSection("run-1", advance=Advance(BODY, (REL1,)))]
    ),
    "engine-advance-snapshot": EngineFrame(
        9,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    Fence(2, 9),
                    (P1, Release(1, 1_790_000_000_123, (StepOutcome("parallel/[0]/a", Payload(b"1")),)), P2),
                    BodyStart("checkout", Payload(b"null"), 1, 1_790_000_000_000),
                    hold=True,
                ),
            )
        ],
    ),
    "host-plan-policies": HostFrame(
        2,
        runs=[
            HostSection(
                "run-1",
                plans=[
                    Plan(
                        4,
                        2,
                        BODY,
                        (
                            GroupOpened(
                                "any of them%2F",
                                3,
                                ParallelMode.RACE,
                                FailPolicy.QUORUM,
                                2,
                                True,
                                1,
                                True,
                                ("left", "right"),
                            ),
                        ),
                        (
                            StepPlanned(
                                "charge#2", StepKind.TASK, "charge", Payload(b"[[17],{}]"), RETRY, 10.5, False, True
                            ),
                        ),
                        ("parallel/[1]/y",),
                        (BranchEnded("race/[1]", BranchOutcome.FAILED, FAILED),),
                        (GroupEnded("race", Verdict.OK, 1, (1, 2)),),
                        BodyEnded(failure=FAILED),
                    )
                ],
            )
        ],
    ),
    "host-results": HostFrame(
        6,
        runs=[
            HostSection(
                "run-1",
                results=[
                    Result("charge", 2, Fence(1, 12), failure=FAILED, elapsed=0.123456789),
                    Result("sealed", 1, Fence(1, 13), Payload(b"\x00\xff", "x-sealed")),
                    Result("empty", 1, Fence(1, 14), Payload(b"")),
                ],
                rejects=[Reject("label", 1, Fence(1, 15), RejectReason.NO_SLOT)],
                need_snapshot=NeedSnapshot(Fence(1, 3)),
            ),
            HostSection(
                "run-2",
                body_failed=BodyFailed(
                    Fence(1, 4), Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "expected a, got b")
                ),
            ),
        ],
    ),
    "host-bodies-given-back": HostFrame(
        7,
        runs=[
            HostSection("run-1", need_snapshot=NeedSnapshot(Fence(1, 3), waits_after=0)),
            HostSection("run-2", need_snapshot=NeedSnapshot(Fence(1, 4), no_room=True)),
        ],
    ),
    "host-report": HostFrame(
        report=Report(3, 2, 0.015, 88, (AttemptInProgress("run-1", "a", 1, BODY, 0.5),)), drain=Drain(30.0)
    ),
    "engine-executes": EngineFrame(
        4,
        runs=[
            EngineSection(
                "run-1",
                continued=BODY,
                executes=[
                    Execute("charge", 2, Fence(1, 12), StepKind.TASK, "charge", Payload(b"[[17],{}]"), 10.0, "checkout")
                ],
                cancels=[Cancel("parallel/[1]/y", BODY, CancelReason.RACE_LOST)],
            ),
            EngineSection("run-2", evict=Fence(1, 9)),
        ],
    ),
    "engine-goodbye": EngineFrame(5, goodbye=Goodbye("stopping"), drain=Drain()),
    "engine-fault": EngineFrame(
        1, fault=Fault(ErrorCode.VERSION, "this engine speaks protocol 1 to 1, the host 2 to 3")
    ),
    "host-chunked-payload": HostFrame(
        7, runs=[HostSection("run-1", results=[Result("big", 1, BODY, Payload(b"stepwire" * 16_385))])]
    ),
    "host-chunked-frame": HostFrame(
        8,
        runs=[
            HostSection(
                "run-1", results=[Result(f"part#{n}", 1, BODY, Payload(bytes([n]) * 65_536)) for n in range(2, 8)]
            )
        ],
    ),
    "host-hello-options": HostFrame(
        hello=Hello(
            "orders",
            "5f0c9e",
            ("checkout", "checkout.on_failure", "plain"),
            flow_options=(
                FlowOptions(
                    "checkout", 3600.0, True, (Trigger("order/placed", "data.total > `100`"), Trigger("retry"))
                ),
                FlowOptions(
                    "checkout.on_failure", triggers=(Trigger("stepwire/run.failed", "data.flow == 'checkout'"),)
                ),
            ),
        )
    ),
    "host-plan-kinds": HostFrame(
        3,
        runs=[
            HostSection(
                "run-1",
                plans=[
                    Plan(
                        2,
                        1,
                        BODY,
                        (GroupOpened("parallel", 2, cancel_siblings=True, deadline=30.0),),
                        (
                            StepPlanned("cool-off", StepKind.SLEEP, spec=Sleep(10.5)),
                            StepPlanned("midnight", StepKind.SLEEP, spec=Sleep(until_ms=1_790_000_000_123)),
                            StepPlanned(
                                "paid",
                                StepKind.WAIT_EVENT,
                                spec=WaitEvent("payment", "data.order_id == `17`", 86_400.0, 60.0),
                            ),
                            StepPlanned("any", StepKind.WAIT_EVENT, spec=WaitEvent("payment")),
                            StepPlanned(
                                "tell",
                                StepKind.SEND_EVENT,
                                spec=SendEvent(
                                    (
                                        Event("shipped", Payload(b'{"order_id":17}'), "ship-17", 1_790_000_000_000),
                                        Event("ping"),
                                    )
                                ),
                            ),
                            StepPlanned(
                                "ship", StepKind.INVOKE, "", Payload(b"17"), RETRY, spec=Invoke("shipping", "order-17")
                            ),
                            StepPlanned(
                                "sync",
                                StepKind.CALL,
                                CALL_STEP,
                                timeout=30.0,
                                deadline=120.0,
                                spec=Call(
                                    "https://example.org/sync",
                                    "POST",
                                    (("content-type", "application/json"),),
                                    Payload(b"{}"),
                                ),
                            ),
                            StepPlanned("reserve", started=True, undo=Undo(StepKind.RUN, timeout=5.0)),
                            StepPlanned(
                                "charge",
                                StepKind.TASK,
                                "charge",
                                Payload(b"[[17],{}]"),
                                undo=Undo(StepKind.TASK, "refund", RETRY),
                            ),
                        ),
                    )
                ],
            )
        ],
    ),
    "host-plan-restart": HostFrame(
        4,
        runs=[HostSection("run-1", plans=[Plan(3, 2, BODY, body_ended=BodyEnded(restart=Payload(b'{"cursor":9}')))])],
    ),
    "host-plan-cancelled": HostFrame(
        4, runs=[HostSection("run-1", plans=[Plan(3, 2, BODY, body_ended=BodyEnded(cancelled=True))])]
    ),
    "engine-release-outcomes": EngineFrame(
        6,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    BODY,
                    (
                        Release(
                            2,
                            1_790_000_010_000,
                            (
                                StepOutcome("charge", Payload(b"{}"), attempts=3, took_ms=9_250),
                                StepOutcome("reserve", held=True, took_ms=12),
                                StepOutcome(
                                    "parallel",
                                    failure=Failure(
                                        ErrorCode.TIMEOUT, "GroupTimeout", "deadline of 30 s", retryable=Retryable.NO
                                    ),
                                    took_ms=30_000,
                                ),
                            ),
                        ),
                    ),
                ),
            )
        ],
    ),
    "engine-advance-undo": EngineFrame(
        7,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    Fence(2, 11),
                    (P1, A_RELEASED),
                    BodyStart("checkout", Payload(b"null"), 1, 1_790_000_000_000),
                    hold=True,
                    purpose=Purpose.UNDO,
                ),
                executes=[
                    Execute(
                        "parallel/[0]/a#undo",
                        1,
                        Fence(2, 12),
                        StepKind.RUN,
                        timeout=5.0,
                        flow="checkout",
                        undo=UndoInput(Payload(b"1"), FAILED),
                    ),
                ],
            ),
            EngineSection(
                "run-2",
                executes=[
                    Execute(
                        "charge#2#undo",
                        2,
                        Fence(1, 13),
                        StepKind.TASK,
                        "refund",
                        flow="checkout",
                        undo=UndoInput(Payload(b'{"id":17}')),
                    )
                ],
            ),
        ],
    ),
    "host-plan-traced": HostFrame(
        3,
        runs=[
            HostSection(
                "run-1", plans=[Plan(1, 0, BODY, steps=(StepPlanned("charge", started=True, traceparent=STEP_SPAN),))]
            )
        ],
    ),
    "engine-advance-traced": EngineFrame(
        4,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    BODY, start=BodyStart("checkout", Payload(b"null"), 1, 1_790_000_000_000, traceparent=CALLER_SPAN)
                ),
                executes=[Execute("charge", 2, Fence(1, 7), StepKind.RUN, flow="checkout", traceparent=STEP_SPAN)],
            )
        ],
    ),
    "engine-execute-call": EngineFrame(
        8,
        runs=[
            EngineSection(
                "run-1",
                executes=[
                    Execute(
                        "sync",
                        1,
                        Fence(1, 14),
                        StepKind.CALL,
                        CALL_STEP,
                        timeout=30.0,
                        flow="checkout",
                        call=Call("https://example.org/sync", headers=(("accept", "*/*"), ("accept", "text/plain"))),
                    )
                ],
            )
        ],
    ),
    "host-logs": HostFrame(
        logs=[
            RunLogs(
                "run-1",
                (
                    LogLine("charge", 2, 0.25, 30, "shop.payment", "card declined\nTraceback"),
                    LogLine("", 0, 0.0, 20, "shop", "done"),
                ),
                3,
            ),
            RunLogs("run-2", dropped=1),
        ]
    ),
    "host-hello-ahead": HostFrame(hello=Hello("orders", "5f0c9e", steps=("charge",), slots=4, bodies=0, ahead=4)),
    "host-redacted": HostFrame(
        5,
        hello=Hello("orders", "5f0c9e", ("checkout",), flow_options=(FlowOptions("checkout", redact_input=True),)),
        runs=[
            HostSection(
                "run-1",
                plans=[
                    Plan(
                        3,
                        2,
                        BODY,
                        steps=(
                            StepPlanned("charge", StepKind.TASK, "charge", Payload(b"[[17],{}]", "x-sealed", True)),
                            StepPlanned(
                                "pay",
                                StepKind.CALL,
                                CALL_STEP,
                                spec=Call(
                                    "https://example.org/pay",
                                    body=Payload(b"{}", redacted=True),
                                    redact_output=True,
                                    secret_headers=(SecretHeader("authorization", "Bearer ", "PAY_TOKEN"),),
                                ),
                            ),
                        ),
                    )
                ],
                results=[Result("token", 1, BODY, Payload(b'"t"', redacted=True))],
            )
        ],
    ),
    "host-chunked-event": HostFrame(
        5,
        runs=[
            HostSection(
                "run-1",
                plans=[
                    Plan(
                        3,
                        2,
                        BODY,
                        steps=(
                            StepPlanned(
                                "tell", StepKind.SEND_EVENT, spec=SendEvent((Event("big", Payload(b"7" * 65_537)),))
                            ),
                        ),
                    )
                ],
            )
        ],
    ),
    "host-hello-features": HostFrame(hello=Hello("orders", "5f0c9e", ("checkout",), features=(3,))),
    "engine-welcome-features": EngineFrame(1, Welcome("s-1", features=(1, 2, 3))),
}
