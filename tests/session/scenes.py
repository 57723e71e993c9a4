"""States of a run, of its step "a" and of the session that speaks of them, each built by what really leads to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import BodyFailed, Execute, HostFrame
from stepwire.protocol.plan import Fence, RetryPolicy, Sleep, StepKind, StepPlanned, Undo
from tests.session.desk import CONFIG, REFUSED, Desk, Host, task

ONCE = RetryPolicy(max_attempts=1)
A = task("a", undo=Undo(StepKind.TASK, "work"))
BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "broken", retryable=Retryable.NO)


@dataclass
class Scene:
    """An engine in some state, and the host that will say something.

    Attributes:
        body: Fence of the body that the host holds, or held last.
        lease: The attempt of "a" as it was given to some host last.
        planned: Last plan_seq on record.
    """

    desk: Desk
    host: Host
    body: Fence
    lease: Execute
    planned: int

    def say(self, frame: HostFrame) -> None:
        """The host says this; everything is carried and committed."""
        assert self.host.engine is not None
        self.desk.core.receive(self.host.engine, self.host.stream, frame, self.desk.now)
        self.desk.held = False
        self.desk.settle()

    @property
    def next_position(self) -> int:
        """Of the host's next durable frame."""
        return self.host.session._position + 1


def _scene(desk: Desk, host: Host, lease: Execute | None = None) -> Scene:
    body, _, planned = host.seqs.get("r", (Fence(1, 1), 0, 0))
    return Scene(desk, host, body, lease or Execute("a", 1, body, StepKind.TASK, "work"), planned)


def _run(*steps: StepPlanned, desk: Desk | None = None) -> tuple[Desk, Host, list[Execute]]:
    """A run whose body planned these steps on its only host, and what came of them."""
    desk = desk or Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    if steps:
        host.plan(*steps)
        desk.settle()
    return desk, host, host.executes()


def _leased(step: StepPlanned = A) -> Scene:
    desk, host, (lease,) = _run(step)
    return _scene(desk, host, lease)


def _pending() -> Scene:
    desk, host, _ = _run()
    return _scene(desk, host)


def _elsewhere() -> Scene:
    """The host was given up while its link was cut, another one executes its step; now it is back."""
    scene = _leased()
    scene.host.cut()
    other = scene.desk.host("other")
    scene.desk.pass_time(CONFIG.reconnect_grace + 1)
    assert other.holds("a")
    scene.host.connect()
    scene.desk.settle()
    return scene


def _backoff() -> Scene:
    scene = _leased(msgspec.structs.replace(A, retry=RetryPolicy(max_attempts=3, delay=60.0)))
    scene.host.failed("a")
    scene.desk.settle()
    return scene


def _ended() -> Scene:
    scene = _leased()
    scene.host.ok("a")
    scene.desk.settle()
    return scene


def _failed() -> Scene:
    scene = _leased(msgspec.structs.replace(A, retry=ONCE))
    scene.host.failed("a")
    scene.desk.settle()
    return scene


def _abandoned() -> Scene:
    """The body gave the step up; its host was told to stop and still executes it."""
    scene = _leased()
    scene.host.plan(abandoned=("a",))
    scene.desk.settle()
    scene.planned += 1
    return scene


def _committing() -> Scene:
    """The outcome of "a" is on its way to the store."""
    scene = _leased()
    scene.desk.held = True
    scene.host.ok("a")
    scene.desk.settle()
    return scene


def _paused() -> Scene:
    scene = _leased()
    scene.host.session.fail_body("r", BodyFailed(scene.body, BROKEN))
    scene.desk.settle()
    assert scene.desk.run_state() == "PAUSED"
    return scene


def _stopping() -> Scene:
    """It was cancelled, and "a" has not stopped yet; another step is to be undone after it."""
    desk, host, leases = _run(task("z", undo=Undo(StepKind.TASK, "work")), A)
    scene = _scene(desk, host, leases[-1])
    host.ok("z")
    desk.settle()
    scene.desk.core.cancel_run("cancel", "r", True, scene.desk.now)
    scene.desk.settle()
    return scene


def _undoing() -> Scene:
    scene = _ended()
    scene.host.take()
    scene.desk.core.cancel_run("cancel", "r", True, scene.desk.now)
    scene.desk.settle()
    (undo,) = scene.host.executes()
    assert undo.path == "a#undo"
    return scene


def _succeeded() -> Scene:
    scene = _ended()
    scene.host.end()
    scene.desk.settle()
    assert scene.desk.run_state() == "SUCCEEDED"
    scene.planned += 1
    return scene


def _cancelled() -> Scene:
    scene = _leased()
    scene.desk.core.cancel_run("cancel", "r", False, scene.desk.now)
    scene.desk.settle()
    assert scene.desk.run_state() == "CANCELLED"
    return scene


def _dormant() -> Scene:
    desk, host, _ = _run(
        StepPlanned("a", StepKind.SLEEP, spec=Sleep(duration=86_400.0)),
        desk=Desk(config=msgspec.structs.replace(CONFIG, live_idle=1.0)),
    )
    desk.pass_time(10.0)
    assert desk.run_state() == "WAITING" and not desk.core.runs
    return _scene(desk, host)


def _unreadable_now() -> Scene:
    """A commit of the run was refused, and its journal is being read again; a host that holds nothing speaks of it."""
    scene = _leased()
    other = scene.desk.host("other")
    scene.desk.held = True
    scene.host.ok("a")
    scene.desk.settle()
    scene.desk.commit(receipt=REFUSED)
    scene.host = other
    return scene


def _adopted() -> Scene:
    """Another engine took the store over, and the host came back with what it executes."""
    scene = _leased()
    scene.desk.restart()
    scene.host.connect()
    scene.desk.settle()
    return scene


def _host_drains() -> Scene:
    scene = _leased()
    scene.host.session.drain(30.0)
    scene.desk.settle()
    return scene


def _engine_drains() -> Scene:
    scene = _leased()
    scene.desk.core.drain(30.0, scene.desk.now)
    scene.desk.settle()
    return scene


def _unwelcome() -> Scene:
    """The host is back, and its session is not on record yet."""
    scene = _leased()
    scene.host.cut()
    scene.desk.held = True
    scene.host.connect()
    scene.desk.settle()
    return scene


def _replaced() -> Scene:
    """A newer stream of the same instance took the place of the one that speaks."""
    scene = _leased()
    newer = Host(scene.desk, scene.host.session._hello)
    scene.desk.hosts.append(newer)
    newer.connect()
    scene.desk.settle()
    return scene


def _given_up() -> Scene:
    """Nothing was heard for so long that the session is over; the host does not know it yet."""
    scene = _leased()
    engine, stream = scene.host.engine, scene.host.stream
    scene.desk.pass_time(CONFIG.silence_timeout + CONFIG.reconnect_grace + 1, beat=False)
    scene.host.engine, scene.host.stream = engine, stream
    assert not scene.desk.core.sessions
    return scene


def _closing() -> Scene:
    """The engine has ended the stream with a fault."""
    scene = _leased()
    engine, stream = scene.host.engine, scene.host.stream
    scene.host.raw(HostFrame(position=99))
    scene.desk.settle()
    scene.host.engine, scene.host.stream = engine, stream
    return scene


SCENES: dict[str, Callable[[], Scene]] = {
    "run without steps": _pending,
    "step executing here": _leased,
    "step executing elsewhere": _elsewhere,
    "step in backoff": _backoff,
    "step succeeded": _ended,
    "step failed": _failed,
    "step abandoned": _abandoned,
    "outcome being committed": _committing,
    "run paused": _paused,
    "run stopping": _stopping,
    "run undoing": _undoing,
    "run succeeded": _succeeded,
    "run cancelled": _cancelled,
    "run dormant": _dormant,
    "run being read again": _unreadable_now,
    "step adopted": _adopted,
    "host draining": _host_drains,
    "engine draining": _engine_drains,
    "session not on record": _unwelcome,
    "stream replaced": _replaced,
    "session given up": _given_up,
    "stream closing": _closing,
}
