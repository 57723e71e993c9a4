"""What a flow body decides: the values of a Plan.

The same values travel in frames, stand in the journal and are matched by replay; `plan.proto` says what
each field means on the wire. Durations are seconds as float.
"""

from __future__ import annotations

import enum

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import NULL, Payload


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


class Event(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """Something that happened, for flows that wait for it or are started by it (MISSION T1).

    Attributes:
        name: 1..256 bytes.
        data: JSON, if anybody is to match on it.
        id: Deduplicates; empty: the engine makes one.
        at_ms: When it is delivered, milliseconds since the Unix epoch; None: now.
        traceparent: Where the sender's span belongs; empty: nowhere.
    """

    name: str
    data: Payload = NULL
    id: str = ""
    at_ms: int | None = None
    traceparent: str = ""


class Sleep(msgspec.Struct, frozen=True, array_like=True, tag="sleep"):
    """Ends after `duration` seconds, or at `until_ms` of the engine's clock (MISSION S17). Exactly one is set."""

    duration: float | None = None
    until_ms: int | None = None


class WaitEvent(msgspec.Struct, frozen=True, array_like=True, tag="wait_event"):
    """Ends with the first event of this name that matches (MISSION S18).

    Attributes:
        event: Name of the event.
        match: JMESPath over {name, id, data, at}; empty: every event. The first result that is true matches.
        timeout: Seconds; then its output is null. None: waits for ever.
        lookback: Events of this many seconds before the step count as well, oldest first.
    """

    event: str
    match: str = ""
    timeout: float | None = None
    lookback: float = 0.0


class SendEvent(msgspec.Struct, frozen=True, array_like=True, tag="send_event"):
    """Sends events; the output is the list of their ids (MISSION I15)."""

    events: tuple[Event, ...]


class Invoke(msgspec.Struct, frozen=True, array_like=True, tag="invoke"):
    """Runs another flow with the step's input; its outcome is the step's (MISSION S19).

    Attributes:
        flow: Name of the flow.
        id: Idempotency key of the child; empty: none.
    """

    flow: str
    id: str = ""


class SecretHeader(msgspec.Struct, frozen=True, array_like=True):
    """A header whose value ends with a secret that only the engine has (MISSION V7).

    Attributes:
        prefix: What stands before the secret, as "Bearer ".
        secret: Its name: A-Z, 0-9 and _.
    """

    name: str
    prefix: str
    secret: str


class Call(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """One HTTP request made by the engine's built-in host (MISSION S16, U4).

    Attributes:
        redact_output: The answer is redacted.
        secret_headers: Beside `headers`; the engine looks the secrets up at every attempt.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: Payload | None = None
    redact_output: bool = False
    secret_headers: tuple[SecretHeader, ...] = ()


StepSpec = Sleep | WaitEvent | SendEvent | Invoke | Call

CALL_STEP = "stepwire:call"
"""Name under which the engine's built-in host serves `call` steps. Names with this prefix are reserved."""
RESERVED_PREFIX = "stepwire:"


class Undo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a completed step is compensated (MISSION S8, O9).

    Attributes:
        kind: RUN for a closure of the body, TASK for a registered step.
        name: The registered step.
        retry: Policy of the undo; None: the default of Welcome.
        timeout: Longest duration of one attempt in seconds.
    """

    kind: StepKind = StepKind.RUN
    name: str = ""
    retry: RetryPolicy | None = None
    timeout: float | None = None


class StepPlanned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step the body decided to run.

    Attributes:
        name: The registered step, for TASK; CALL_STEP for CALL.
        timeout: Longest duration of one attempt in seconds.
        started: The host started attempt 1 itself.
        concurrent: Planned by a task that the branch started.
        deadline: Seconds from its plan within which it must have its outcome, all attempts included.
        spec: What kinds beyond RUN and TASK do.
        undo: How it is compensated.
        traceparent: The context of its span; empty: its host makes no spans.
    """

    path: str
    kind: StepKind = StepKind.RUN
    name: str = ""
    input: Payload | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    started: bool = False
    concurrent: bool = False
    deadline: float | None = None
    spec: StepSpec | None = None
    undo: Undo | None = None
    traceparent: str = ""


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
    deadline: float | None = None
    """Seconds from its opening; what has not ended by then counts as not succeeded."""


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
    """How the flow ended; exactly one is set.

    Attributes:
        output: It returned.
        failure: It raised.
        restart: It asked for a successor with this input (`ctx.restart_with`).
        cancelled: It cancelled its own run (`ctx.cancel`).
    """

    output: Payload | None = None
    failure: Failure | None = None
    restart: Payload | None = None
    cancelled: bool = False


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
