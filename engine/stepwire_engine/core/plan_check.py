"""What makes a Plan acceptable: checked against the run before anything of it is applied (DESIGN 3, MISSION P14).

A refused plan changes nothing. The host checks the same limits where user code can see them; this is the
second check, because hosts are written in many languages.
"""

from __future__ import annotations

from stepwire.protocol import paths
from stepwire.protocol.bounds import SPEC_OF, spec_problem, undo_problem
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    RESERVED_PREFIX,
    BodyEnded,
    BranchOutcome,
    Call,
    FailPolicy,
    GroupOpened,
    Plan,
    SendEvent,
    StepKind,
    StepPlanned,
    StepSpec,
    WaitEvent,
)
from stepwire.protocol.verdict import group_verdict
from stepwire_engine.core import matching
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.model import Run


class _Refused(Exception):
    def __init__(self, message: str, code: ErrorCode = ErrorCode.PLAN_REJECTED) -> None:
        super().__init__(message)
        self.code = code


class _Opened:
    """What a plan opens: its groups by path, and by path of each branch how deep it is."""

    def __init__(self) -> None:
        self.groups: dict[str, GroupOpened] = {}
        self.depths: dict[str, int] = {}


_NOTHING = _Opened()


def refusal(run: Run, plan: Plan, config: CoreConfig) -> Failure | None:
    """Why this plan cannot be the run's next one, or None if it can."""
    try:
        opened = _check_groups(run, plan, config) if plan.groups else _NOTHING
        _check_steps(run, plan, opened, config)
        if plan.abandoned or plan.branches_ended or plan.groups_ended:
            _check_ends(run, plan, opened)
        if plan.body_ended is not None:
            _check_body_ended(plan.body_ended, config)
    except _Refused as refused:
        return Failure(refused.code, "PlanRejected", str(refused), retryable=Retryable.NO)
    return None


def is_repeat(run: Run, plan: Plan) -> bool:
    """Whether an old plan says only what the journal already has; anything else is a broken host."""
    return all(g.path in run.groups for g in plan.groups) and all(
        s.path in run.steps and run.steps[s.path].kind is s.kind for s in plan.steps
    )


def _check_groups(run: Run, plan: Plan, config: CoreConfig) -> _Opened:
    opened = _Opened()
    for group in plan.groups:
        if group.path in run.groups or group.path in opened.groups or group.path in run.steps:
            raise _Refused(f"group {group.path!r} exists already")
        _check_path("group", group.path)
        if group.branches > config.branches_per_group_max:
            raise _Refused(
                f"group {group.path!r} has {group.branches} branches, limit {config.branches_per_group_max}",
                ErrorCode.LIMIT_EXCEEDED,
            )
        if group.fail is FailPolicy.QUORUM and not 1 <= group.quorum <= group.branches:
            raise _Refused(f"group {group.path!r}: quorum {group.quorum} of {group.branches} branches")
        depth = _scope_depth(run, opened, paths.parent(group.path)) + 1
        if depth > config.group_depth_max:
            raise _Refused(
                f"group {group.path!r} is nested {depth} deep, limit {config.group_depth_max}", ErrorCode.LIMIT_EXCEEDED
            )
        opened.groups[group.path] = group
        opened.depths.update(dict.fromkeys(paths.branch_paths(group.path, group.branches), depth))
    return opened


def _check_path(what: str, path: str) -> None:
    if path.endswith(paths.UNDO_SUFFIX):
        raise _Refused(f"{what} {path!r} has the path of a compensation")


def _scope_depth(run: Run, opened: _Opened, path: str) -> int:
    """Depth of an open scope. Raises _Refused if it does not exist or has ended."""
    scope = run.scopes.get(path)
    if scope is not None:
        if scope.ended:
            raise _Refused(f"branch {path!r} has ended")
        return scope.depth
    # By its one spelling: int() would also read "+1", "01" and digits of other scripts.
    depth = opened.depths.get(path)
    if depth is None:
        raise _Refused(_no_scope(opened, path))
    return depth


def _no_scope(opened: _Opened, path: str) -> str:
    """Why nothing can stand in a scope that does not exist."""
    group = opened.groups.get(paths.parent(path))
    if group is None:
        return f"scope {path!r} does not exist"
    try:
        paths.branch_index(path)
    except ValueError:
        return f"not a branch path: {path!r}"
    return f"group {group.path!r} has {group.branches} branches; there is no {path!r}"


def _check_steps(run: Run, plan: Plan, opened: _Opened, config: CoreConfig) -> None:
    if len(run.steps) + len(plan.steps) > config.steps_per_run_max:
        raise _Refused(f"run exceeds {config.steps_per_run_max} steps", ErrorCode.LIMIT_EXCEEDED)
    steps, groups, scopes = run.steps, run.groups, run.scopes
    seen: set[str] = set()
    for step in plan.steps:
        path = step.path
        if path in steps or path in seen or path in groups or path in opened.groups:
            raise _Refused(f"step {path!r} was planned already")
        if "#" in path:
            _check_path("step", path)
        if step.kind is not StepKind.RUN or step.undo is not None or step.spec is not None:
            _check_kind(step, config)
        if step.input is not None:
            _check_size(f"input of step {path!r}", step.input, config)
        seen.add(path)
        place = path.rpartition("/")[0]
        scope = scopes.get(place)
        if (scope is None and place not in opened.depths) or (scope is not None and scope.ended):
            _scope_depth(run, opened, place)  # It says why that cannot be.


def _check_kind(step: StepPlanned, config: CoreConfig) -> None:
    """A step says exactly what its kind needs; hosts in this process never passed the wire, so it is asked again."""
    if step.started and step.kind not in (StepKind.RUN, StepKind.TASK):
        raise _Refused(f"step {step.path!r} of kind {step.kind.name} was started by its host")
    expected = SPEC_OF.get(step.kind)
    if type(step.spec) is not (expected or type(None)):
        raise _Refused(f"step {step.path!r} of kind {step.kind.name} has the wrong specification")
    if step.kind is StepKind.TASK and (not step.name or step.name.startswith(RESERVED_PREFIX)):
        raise _Refused(f"step {step.path!r} is a registered step without a name of its own")
    if isinstance(step.spec, WaitEvent):
        try:
            matching.check(step.spec.match)
        except matching.MalformedMatch as error:
            raise _Refused(f"match {step.spec.match[:200]!r} of step {step.path!r} is refused: {error}") from None
    if step.spec is not None:
        if step.kind is StepKind.CALL and step.name != CALL_STEP:
            raise _Refused(f"step {step.path!r} is a call that is not named {CALL_STEP!r}")
        _check_problem(step.path, spec_problem(step.spec))
        for payload in _payloads(step.spec):
            _check_size(f"what step {step.path!r} sends", payload, config)
    if step.undo is not None:
        _check_problem(step.path, undo_problem(step.undo))


def _check_problem(path: str, problem: str | None) -> None:
    if problem is not None:
        raise _Refused(f"step {path!r}: {problem}")


def _payloads(spec: StepSpec) -> list[Payload]:
    match spec:
        case SendEvent():
            return [event.data for event in spec.events]
        case Call(body=Payload() as body):
            return [body]
        case _:
            return []


def _check_size(what: str, payload: Payload | None, config: CoreConfig) -> None:
    if payload is not None and len(payload.data) > config.payload_bytes_max:
        raise _Refused(
            f"{what} is {len(payload.data)} bytes, limit {config.payload_bytes_max}", ErrorCode.PAYLOAD_TOO_LARGE
        )


def _check_body_ended(ended: BodyEnded, config: CoreConfig) -> None:
    _check_size("the output of the flow", ended.output, config)
    _check_size("the input of the successor", ended.restart, config)


def _check_ends(run: Run, plan: Plan, opened: _Opened) -> None:
    if plan.abandoned:
        planned = {s.path for s in plan.steps}
        for path in plan.abandoned:
            if path not in run.steps and path not in planned:
                raise _Refused(f"abandoned step {path!r} was never planned")
    ended = _ended_branches(run, plan, opened)
    seen = {branch.path for branch in plan.branches_ended}
    for group in plan.groups_ended:
        known = run.groups.get(group.path)
        spec = known.opened if known else opened.groups.get(group.path)
        if spec is None or (known is not None and known.ended is not None) or group.path in seen:
            raise _Refused(f"group {group.path!r} is not open")
        seen.add(group.path)
        branches = (known.ended_branches if known else []) + ended.get(group.path, [])
        expected = group_verdict(spec, branches, expired=known is not None and known.expired)
        if expected != group:
            raise _Refused(f"verdict of group {group.path!r}: the host says {group}, its branches say {expected}")


def _ended_branches(run: Run, plan: Plan, opened: _Opened) -> dict[str, list[tuple[int, BranchOutcome]]]:
    """The branches that the plan ends, by path of their group, in order."""
    ended: dict[str, list[tuple[int, BranchOutcome]]] = {}
    scopes = run.scopes
    seen: set[str] = set()
    for branch in plan.branches_ended:
        path = branch.path
        scope = scopes.get(path)
        if scope is not None and scope.group is not None and not scope.ended:
            group, index = scope.group.path, scope.index
        else:
            _scope_depth(run, opened, path)
            if path == paths.ROOT:
                raise _Refused("the root is not a branch")
            group, index = paths.parent(path), paths.branch_index(path)
        if path in seen:
            raise _Refused(f"branch {path!r} ended twice")
        seen.add(path)
        ended.setdefault(group, []).append((index, branch.outcome))
    return ended
