"""Everything the engine can say about why one run does not move: who has it, what its steps wait for, who is there.

Made when somebody asks, from the record, the run in memory (or the fold of its journal) and the sessions. It decides
nothing, and words are found by whoever shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from stepwire.protocol.plan import StepKind, WaitEvent
from stepwire_engine.core.books import Now
from stepwire_engine.core.history import RunView, StepView
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.core.sessions import Session

OPEN_STEPS_MAX = 100
SERVICES_MAX = 100
GROUP_HOLDERS_MAX = 20


class HolderView(msgspec.Struct, frozen=True, kw_only=True):
    """A host that has a body (attempt 0) or executes an attempt."""

    service: str
    instance_id: str
    since_ms: int | None = None
    attempt: int = 0
    connected: bool = True
    stopping: bool = False


class OpenStepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step without an outcome, or one whose attempt does not stop.

    Attributes:
        view: The step as the record has it.
        attempt: Which executes or comes next.
        match: Of a wait for an event.
        group: The group with a limit whose places are all taken.
        group_holders: Steps that have them, at most GROUP_HOLDERS_MAX.
    """

    view: StepView
    attempt: int
    holder: HolderView | None = None
    match: str = ""
    group: str = ""
    group_limit: int = 0
    group_holders: tuple[str, ...] = ()


class ServiceView(msgspec.Struct, kw_only=True):
    """The connected hosts of one service. Counts."""

    service: str
    hosts: int = 0
    serving_flow: int = 0
    busy: int = 0
    slots: int = 0
    lagging: int = 0
    draining: int = 0
    serving_steps: tuple[str, ...] = ()


class ExplanationView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run does not move; of one that ended there is nothing but the run."""

    run: RunView
    at_ms: int
    body: HolderView | None = None
    open_steps: tuple[OpenStepView, ...] = ()
    open_steps_count: int = 0
    services: tuple[ServiceView, ...] = ()


def explain(
    view: RunView, run: Run, sessions: Mapping[str, Session], now: Now, *, builtin: str = ""
) -> ExplanationView:
    """What is known about the waiting of a run.

    Args:
        view: Its record with steps.
        run: In memory, or the fold of its journal.
        sessions: By id.
        builtin: Id of the session of the host inside the engine, which is of interest only to what it serves.
    """
    if view.state.terminal:
        return ExplanationView(run=view, at_ms=now.unix_ms)
    views = {step.path: step for step in view.steps}
    still_open = [step for step in run.steps.values() if _concerns(step) and step.path in views]
    places: dict[str, tuple[str, ...]] = {}
    shown = [_open_step(views[step.path], step, sessions, now, places) for step in still_open[:OPEN_STEPS_MAX]]
    names = {step.name for step in still_open if step.kind in (StepKind.TASK, StepKind.CALL)}
    body = None if run.body is None else sessions.get(run.body.session_id)
    return ExplanationView(
        run=view,
        at_ms=now.unix_ms,
        body=None if body is None else _holder(body),
        open_steps=tuple(shown),
        open_steps_count=len(still_open),
        services=_services([s for s in sessions.values() if s.id != builtin or names & s.steps], run.flow, names),
    )


def _concerns(step: Step) -> bool:
    """It has no outcome, or an attempt of it that was told to stop has not."""
    return not step.state.final or step.lease is not None


def _open_step(
    view: StepView, step: Step, sessions: Mapping[str, Session], now: Now, places: dict[str, tuple[str, ...]]
) -> OpenStepView:
    lease = step.lease
    session = None if lease is None else sessions.get(lease.session_id)
    full = _full_group(step) if view.reason is WaitReason.GROUP_LIMIT else None
    if full is not None and full.path not in places:
        places[full.path] = _holders(full)
    return OpenStepView(
        view=view,
        attempt=step.attempt,
        holder=None if lease is None or session is None else _holder(session, lease, now),
        match=step.spec.match if isinstance(step.spec, WaitEvent) else "",
        group="" if full is None else full.path,
        group_limit=0 if full is None else full.opened.limit,
        group_holders=() if full is None else places[full.path],
    )


def _holder(session: Session, lease: Lease | None = None, now: Now | None = None) -> HolderView:
    if lease is None or now is None:
        return HolderView(service=session.service, instance_id=session.instance_id, connected=session.connected)
    return HolderView(
        service=session.service,
        instance_id=session.instance_id,
        since_ms=now.unix_ms - max(0, round((now.mono - lease.since) * 1000)),
        attempt=lease.attempt,
        connected=session.connected,
        stopping=lease.cancelled is not None,
    )


def _full_group(step: Step) -> Group | None:
    return next((group for group in step.scope.limits if group.executing >= group.opened.limit), None)


def _holders(group: Group) -> tuple[str, ...]:
    steps = (step for step in group.run.steps.values() if step.admitted and group in step.scope.limits)
    return tuple([step.path for step in islice(steps, GROUP_HOLDERS_MAX)])


def _services(sessions: Iterable[Session], flow: str, names: set[str]) -> tuple[ServiceView, ...]:
    found: dict[str, ServiceView] = {}
    for session in sessions:
        if not session.connected:
            continue
        service = found.setdefault(session.service, ServiceView(service=session.service))
        service.hosts += 1
        service.serving_flow += flow in session.flows
        service.busy += session.busy_slots
        service.slots += session.slots
        service.lagging += session.lagging
        service.draining += session.draining
        service.serving_steps = tuple(sorted({*service.serving_steps, *(names & session.steps)}))
    return tuple([found[name] for name in sorted(found)[:SERVICES_MAX]])
