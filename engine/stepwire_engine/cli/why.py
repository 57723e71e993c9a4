"""What `stepwire runs why` tells people: why a run does not move, and what to do about it. Pure: values to text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from stepwire_engine.cli.documents import Run, Step
from stepwire_engine.cli.record import not_undone_lines
from stepwire_engine.cli.terminal import printable
from stepwire_engine.cli.tree import REASONS, duration_text, failure_text
from stepwire_engine.cli.why_document import Holder, OpenStep, Service, Why

STEPS_SHOWN_MAX = 20
SERVICES_SHOWN_MAX = 10
_WAITS_FOR_HOSTS = frozenset(
    {"no_host", "no_slot", "no_body_room", "host_lagging", "host_draining", "host_congested", "host_away", "adoption"}
)


def why_lines(why: Why) -> list[str]:
    """Why the run does not move, in sentences; the last ones say what can be done."""
    if why.run.final:
        return list(_ended(why.run))
    return [*_headline(why), *_body(why), *_steps(why), *_services(why), *_next(why)]


# ---- runs


def _ended(run: Run) -> Iterator[str]:
    took = f" after {duration_text(run.duration_seconds)}" if run.duration_seconds is not None else ""
    at = f" at {_clock(run.ended_at)}" if run.ended_at else ""
    yield f"{_named(run)} has ended: {run.state}{at}{took}."
    if run.failure is not None:
        yield f"It failed with {failure_text(run.failure)} ({run.failure.code})."
    for step in [step for step in run.steps if step.state == "FAILED"][:STEPS_SHOWN_MAX]:
        yield f"  {printable(step.path)} failed{_attempts(step)}."
    if run.successor_run_id:
        yield f"It goes on as run {printable(run.successor_run_id)}."
    yield from not_undone_lines(run)
    yield f"next: see all of it with stepwire runs show {run.run_id}"


def _attempts(step: Step) -> str:
    failures = [attempt.failure for attempt in step.attempts if attempt.failure is not None]
    count = f" after {_count(len(step.attempts), 'attempt')}" if step.attempts else ""
    return f"{count}: {failure_text(failures[-1])}" if failures else count


def _headline(why: Why) -> Iterator[str]:
    run = why.run
    since = f" for {_lasted(run.created_at, why.at)}" if run.created_at else ""
    yield f"{_named(run)} is {run.state}{since}: {REASONS.get(run.reason or '', 'it is on its way')}."
    if run.state == "PAUSED" and run.failure is not None:
        yield f"It was paused because of {failure_text(run.failure)} ({run.failure.code})."
    if run.phase == "CANCELLING":
        yield "It is being stopped: what is in progress is told to stop first."
    elif run.phase == "UNDOING":
        yield "Its completed steps are being compensated, one after the other."
    if run.stopping is not None:
        yield f"It will fail with {failure_text(run.stopping)} ({run.stopping.code})."


def _body(why: Why) -> Iterator[str]:
    if why.run.phase != "BODY" or why.run.state in ("PAUSED", "WAITING"):
        return
    if why.body is None:
        yield "No host has its body."
    else:
        yield f"Its body is live on {_host(why.body)}{_away(why.body)}."


def _named(run: Run) -> str:
    return f"run {run.run_id} of flow {printable(run.flow)}"


# ---- steps


def _steps(why: Why) -> Iterator[str]:
    for step in why.open_steps[:STEPS_SHOWN_MAX]:
        say = _SAY.get(step.reason or "", _otherwise)
        planned = f", planned {_lasted(step.planned_at, why.at)} ago" if step.planned_at and not step.holder else ""
        lost = (
            f"; {_count(step.lost, 'host')} of it {'was' if step.lost == 1 else 'were'} lost before"
            if step.lost
            else ""
        )
        yield f"  {printable(step.path)}{_about(step)} {say(step, why)}{planned}{lost}."
    left = why.open_steps_count - min(len(why.open_steps), STEPS_SHOWN_MAX)
    if left > 0:
        yield f"  and {_count(left, 'further step')} (-o json has up to 100)"


def _about(step: OpenStep) -> str:
    named = step.name and step.kind in ("task", "call")
    return f" ({step.kind} {printable(step.name)})" if named else ""


def _lease(step: OpenStep, why: Why) -> str:
    if step.holder is None:
        return "is executed by a host"
    since = f" for {_lasted(step.holder.since, why.at)}" if step.holder.since else ""
    until = f", until {_until(step.due_at, why.at)} at the latest" if step.due_at else ""
    away = f"{_away(step.holder)}; if it does not, the attempt is repeated elsewhere" if _away(step.holder) else ""
    return f"executes attempt {step.holder.attempt} on {_host(step.holder)}{since}{until}{away}"


def _not_stopping(step: OpenStep, why: Why) -> str:
    if step.holder is None:
        return "was told to stop and has not"
    since = f" after {_lasted(step.holder.since, why.at)}" if step.holder.since else ""
    return f"was told to stop, but attempt {step.holder.attempt} on {_host(step.holder)} has not{since}"


def _backoff(step: OpenStep, why: Why) -> str:
    tried = next((shown for shown in why.run.steps if shown.path == step.path), None)
    failed = f" (it failed{_attempts(tried)})" if tried is not None and tried.attempts else ""
    return f"waits until {_until(step.due_at, why.at)} for attempt {step.attempt}{failed}"


def _sleeping(step: OpenStep, why: Why) -> str:
    return f"sleeps until {_until(step.due_at, why.at)}"


def _event(step: OpenStep, why: Why) -> str:
    match = f" that fits {printable(step.match)}" if step.match else ""
    until = f", until {_until(step.due_at, why.at)}" if step.due_at else ", however long it takes"
    return f"waits for event {printable(step.name)!r}{match}{until}"


def _child(step: OpenStep, why: Why) -> str:
    run = f" {printable(step.child_run_id)}" if step.child_run_id else ""
    return f"waits for run{run} of flow {printable(step.name)}"


def _group_limit(step: OpenStep, why: Why) -> str:
    if not step.group:
        return "waits for a place in its group"
    places = f"at most {_count(step.group_limit, 'step')} of {printable(step.group)} at once"
    return f"waits for a place, {places}; these have them: {', '.join(map(printable, step.group_holders))}"


def _no_host(step: OpenStep, why: Why) -> str:
    return f"waits for a host that serves {_wanted(step, why)}; none is connected"


def _no_slot(step: OpenStep, why: Why) -> str:
    return f"waits for a free slot of a host that serves {_wanted(step, why)}"


def _otherwise(step: OpenStep, why: Why) -> str:
    return f"waits: {REASONS[step.reason]}" if step.reason in REASONS else "is on its way"


def _wanted(step: OpenStep, why: Why) -> str:
    return f"step {printable(step.name)}" if step.kind in ("task", "call") else f"flow {printable(why.run.flow)}"


_SAY: dict[str, Callable[[OpenStep, Why], str]] = {
    "lease_of_host": _lease,
    "attempt_not_stopping": _not_stopping,
    "backoff_until": _backoff,
    "sleeping_until": _sleeping,
    "event": _event,
    "child_run": _child,
    "group_limit": _group_limit,
    "no_host": _no_host,
    "no_slot": _no_slot,
}


# ---- hosts


def _services(why: Why) -> Iterator[str]:
    """Who is there, where that matters."""
    if not _WAITS_FOR_HOSTS & _reasons(why):
        return
    if not why.services:
        yield "No host is connected."
        return
    yield "Connected:"
    for service in why.services[:SERVICES_SHOWN_MAX]:
        yield f"  {_service(service, why.run)}"
    if len(why.services) > SERVICES_SHOWN_MAX:
        yield f"  and {_count(len(why.services) - SERVICES_SHOWN_MAX, 'further service')}"


def _service(service: Service, run: Run) -> str:
    serves = [f"flow {printable(run.flow)}"] if service.serving_flow else []
    serves += [f"step {printable(step)}" for step in service.serving_steps]
    parts = [
        f"{printable(service.service)}: {_count(service.hosts, 'host')}",
        f"{service.busy} of {_count(service.slots, 'slot')} in use",
        f"serves {', '.join(serves)}" if serves else "serves nothing that this run waits for",
        f"{service.lagging} with a blocked event loop" if service.lagging else "",
        f"{service.draining} stopping" if service.draining else "",
    ]
    return ", ".join([part for part in parts if part])


def _host(holder: Holder) -> str:
    return f"host {printable(holder.service)} ({printable(holder.instance_id)})"


def _away(holder: Holder) -> str:
    return "" if holder.connected else ", which is disconnected and may come back"


# ---- what next


def _next(why: Why) -> Iterator[str]:
    run = why.run
    said: dict[str, None] = {}
    for reason in [run.reason or "", *[step.reason or "" for step in why.open_steps]]:
        tell = _NEXT.get(reason)
        if tell is not None:
            said[tell(why)] = None
    dues = [step.due_at for step in why.open_steps if step.due_at is not None and step.reason in _UNTIL]
    if dues:
        said[f"it goes on by itself at {_until(min(dues), why.at)}"] = None
    if not said:
        said[f"it goes on by itself; see it with stepwire runs show {run.run_id}"] = None
    for line in said:
        yield f"next: {line}"


def _first(why: Why, reason: str) -> OpenStep | None:
    return next((step for step in why.open_steps if step.reason == reason), None)


def _start_host(why: Why) -> str:
    step = _first(why, "no_host")
    return f"start a host that serves {_wanted(step, why) if step else 'flow ' + printable(why.run.flow)}"


def _send(why: Why) -> str:
    step = _first(why, "event")
    return f"stepwire send {printable(step.name) if step else 'NAME'} DATA makes it go on"


def _look_at_child(why: Why) -> str:
    step = _first(why, "child_run")
    return f"stepwire runs why {printable(step.child_run_id) if step and step.child_run_id else 'RUN'}"


def _resume(why: Why) -> str:
    run_id = why.run.run_id
    return f"put right what it was paused for, then stepwire runs resume {run_id}; or stepwire runs cancel {run_id}"


_UNTIL = frozenset({"backoff_until", "sleeping_until", "event"})
_NEXT: dict[str, Callable[[Why], str]] = {
    "paused": _resume,
    "lease_of_host": lambda why: f"it goes on when the attempt ends; see it with stepwire runs show {why.run.run_id}",
    "group_limit": lambda why: "it begins when a step that has a place ends",
    "no_host": _start_host,
    "event": _send,
    "child_run": _look_at_child,
    "no_slot": lambda why: "it begins when an attempt ends; start more hosts, or give them more slots",
    "no_body_room": lambda why: "start more hosts, or let them hold more bodies",
    "host_lagging": lambda why: "find what blocks the event loop: the host's log names how long it was",
    "host_draining": lambda why: "start another host that serves it; this one is stopping",
    "host_away": lambda why: "it goes on when the host comes back; if it does not, another host takes over",
    "adoption": lambda why: "it goes on when its host comes back, or when the engine has waited long enough",
    "attempt_not_stopping": lambda why: "let the code of the step end; it cannot be forced to",
    "host_congested": lambda why: "find what keeps the host or its network so slow; it goes on by itself",
    "engine_full": lambda why: "it goes on when other runs end; raise limits.runs_in_memory_max if there is memory",
    "journal_unreadable": lambda why: "stepwire doctor, where the engine runs",
}


# ---- times and numbers


def _reasons(why: Why) -> set[str]:
    return {why.run.reason or "", *[step.reason or "" for step in why.open_steps]}


def _until(due_at: datetime | None, now: datetime) -> str:
    if due_at is None:
        return "an unknown time"
    left = (due_at - now).total_seconds()
    return f"{_clock(due_at)} (in {duration_text(left)})" if left > 0 else f"{_clock(due_at)} (it is due)"


def _lasted(since: datetime | None, now: datetime) -> str:
    return duration_text(max(0.0, (now - since).total_seconds())) if since is not None else "an unknown time"


def _clock(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}" if at is not None else "an unknown time"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
