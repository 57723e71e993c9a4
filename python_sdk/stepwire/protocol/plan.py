"""What a flow body decides: the values of a Plan.

The same values travel in frames, stand in the journal and are matched by replay; `plan.proto` says what
each field means on the wire. Durations are seconds as float.
"""

from __future__ import annotations

import enum

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload


class Fence(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """The right to a live body or an attempt; the highest wins (DESIGN 3, rule 4)."""

    claim_epoch: int
    n: int


class StepKind(enum.IntEnum):
    RUN = 1
    TASK = 2
    SLEEP = 3
    WAIT_EVENT = 4
    SEND_EVENT = 5
    INVOKE = 6
    CALL = 7


class ParallelMode(enum.IntEnum):
    """How a group's outcomes are released (MISSION I10). It never changes results, only their order."""

    WAIT = 1
    """A wave's outcomes are released together, in declaration order."""
    RACE = 2
    """Each outcome is released as soon as it is committed."""


class FailPolicy(enum.IntEnum):
    """When a group fails (MISSION S6)."""

    ANY = 1
    ALL = 2
    NEVER = 3
    QUORUM = 4


class Backoff(enum.IntEnum):
    FIXED = 1
    LINEAR = 2
    EXPONENTIAL = 3


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often and when a failed step is tried again (MISSION S3, O4).

    Attributes:
        max_attempts: All tries, the first included; at least 1.
        backoff: How the delay grows.
        delay: Seconds before the second attempt.
        factor: Growth for EXPONENTIAL; at least 1.
        cap: Longest delay in seconds before jitter.
        jitter: Share of the delay, 0 to 1, drawn at random and added.
        non_retryable_types: Failure types that end the step at once.
    """

    max_attempts: int = 4
    backoff: Backoff = Backoff.EXPONENTIAL
    delay: float = 1.0
    factor: float = 2.0
    cap: float = 60.0
    jitter: float = 0.1
    non_retryable_types: tuple[str, ...] = ()


DEFAULT_RETRY = RetryPolicy()


class StepPlanned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step the body decided to run."""

    path: str
    kind: StepKind = StepKind.RUN
    name: str = ""
    input: Payload | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    started: bool = False
    concurrent: bool = False


class GroupOpened(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A set of concurrent branches the body started."""

    path: str
    branches: int
    mode: ParallelMode = ParallelMode.WAIT
    fail: FailPolicy = FailPolicy.ANY
    quorum: int = 0
    cancel_siblings: bool = False
    limit: int = 0
    concurrent: bool = False
    names: tuple[str, ...] = ()


class BranchOutcome(enum.IntEnum):
    OK = 1
    FAILED = 2
    CANCELLED = 3


class BranchEnded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    path: str
    outcome: BranchOutcome
    failure: Failure | None = None


class Verdict(enum.IntEnum):
    OK = 1
    FAILED = 2


class GroupEnded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a group's outcome follows from its branches; recomputed by the engine.

    Attributes:
        winner: Index + 1 of the branch that decided an early success; 0: none.
        losers: Indexes of branches that had not ended.
    """

    path: str
    verdict: Verdict
    winner: int = 0
    losers: tuple[int, ...] = ()


class BodyEnded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The flow returned (`output`) or raised (`failure`); exactly one is set."""

    output: Payload | None = None
    failure: Failure | None = None


class Plan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a body decided since its last Plan.

    Attributes:
        plan_seq: Contiguous over the run's whole life, from 1.
        after_release: Number of the last release that user code had been given.
        fence: Of the body that decided it.
    """

    plan_seq: int
    after_release: int
    fence: Fence
    groups: tuple[GroupOpened, ...] = ()
    steps: tuple[StepPlanned, ...] = ()
    abandoned: tuple[str, ...] = ()
    branches_ended: tuple[BranchEnded, ...] = ()
    groups_ended: tuple[GroupEnded, ...] = ()
    body_ended: BodyEnded | None = None
