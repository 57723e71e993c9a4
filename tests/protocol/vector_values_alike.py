"""Golden frames in which one message speaks for others (FEATURE_ALIKE). Append only, as the others."""

from __future__ import annotations

from stepwire.protocol.frames import (
    Advance,
    BodyStart,
    EngineFrame,
    EngineSection,
    HostFrame,
    HostSection,
    Release,
    Result,
    StepOutcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BranchEnded, BranchOutcome, Fence, GroupOpened, Plan, StepKind, StepPlanned
from tests.protocol.vector_values import A_RELEASED, BODY, FAILED, P1, P3, RETRY, result

MAPPED = tuple(f"map/[{n}]/work" for n in range(4))
CHARGED = tuple(
    StepPlanned(f"map/[{n}]/charge", StepKind.TASK, "charge", retry=RETRY, timeout=10.5, concurrent=True)
    for n in range(2)
)

ALIKE: dict[str, HostFrame | EngineFrame] = {
    "host-plan-alike": HostFrame(
        9,
        runs=[
            HostSection(
                "run-1",
                plans=[
                    Plan(
                        4,
                        3,
                        BODY,
                        (GroupOpened("map", 4),),
                        (
                            *[StepPlanned(path, started=True) for path in MAPPED],
                            StepPlanned("map/[0]/ask", StepKind.TASK, "ask", Payload(b"[[17],{}]")),
                            *CHARGED,
                            StepPlanned("map/[2]/charge", StepKind.TASK, "charge"),
                        ),
                        branches_ended=(
                            BranchEnded("race/[0]", BranchOutcome.OK),
                            BranchEnded("race/[1]", BranchOutcome.CANCELLED),
                            BranchEnded("race/[2]", BranchOutcome.CANCELLED),
                            BranchEnded("race/[3]", BranchOutcome.FAILED, FAILED),
                            BranchEnded("race/[4]", BranchOutcome.FAILED, FAILED),
                        ),
                    )
                ],
            )
        ],
    ),
    "host-results-alike": HostFrame(
        10,
        runs=[
            HostSection(
                "run-1",
                results=[
                    result(MAPPED[0], b"1"),
                    Result(MAPPED[1], 1, BODY, Payload(b""), elapsed=0.123456789),
                    Result(MAPPED[2], 1, BODY, Payload(b"3")),
                    Result(MAPPED[3], 1, BODY, failure=FAILED),
                    Result("sealed", 1, BODY, Payload(b"\x00\xff", "x-sealed", True)),
                    Result("sealed#2", 1, BODY, Payload(b"\xff", "x-sealed", True), elapsed=86_400.0),
                    Result("again", 2, BODY, Payload(b"\xff", "x-sealed", True)),
                    Result("again#2", 2, Fence(1, 8), Payload(b"\xff", "x-sealed", True)),
                ],
            )
        ],
    ),
    "engine-release-alike": EngineFrame(
        10,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    BODY,
                    (
                        Release(
                            4,
                            1_790_000_020_000,
                            (
                                *[StepOutcome(path, held=True, took_ms=n) for n, path in enumerate(MAPPED)],
                                StepOutcome("map/[0]/ask", Payload(b"{}")),
                                StepOutcome("map/[0]/charge", held=True, attempts=2, took_ms=300),
                                StepOutcome("map/[1]/charge", held=True, attempts=2, took_ms=1_250),
                            ),
                        ),
                    ),
                ),
            )
        ],
    ),
    "engine-snapshot-alike": EngineFrame(
        2,
        runs=[
            EngineSection(
                "run-1",
                advance=Advance(
                    Fence(2, 9),
                    (P1, A_RELEASED, P3),
                    BodyStart("checkout", Payload(b"null"), 1, 1_790_000_000_000),
                    hold=True,
                ),
            )
        ],
    ),
}
