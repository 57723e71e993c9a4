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


def refusal(run: Run, plan: Plan, config: CoreConfig) -> Failure | None:
    """Why this plan cannot be the run's next one, or None if it can."""
    try:
        opened = _check_groups(run, plan, config)
        _check_steps(run, plan, opened, config)
        _check_ends(run, plan, opened)
        _check_body_ended(plan, config)
    except _Refused as refused:
        return Failure(refused.code, "PlanRejected", str(refused), retryable=Retryable.NO)
    return None


def is_repeat(run: Run, plan: Plan) -> bool:
    """Whether an old plan says only what the journal already has; anything else is a broken host."""
    return all(g.path in run.groups for g in plan.groups) and all(
        s.path in run.steps and run.steps[s.path].kind is s.kind for s in plan.steps
    )


def _check_groups(run: Run, plan: Plan, config: CoreConfig) -> dict[str, GroupOpened]:
    opened: dict[str, GroupOpened] = {}
    for group in plan.groups:
        if group.path in run.groups or group.path in opened or group.path in run.steps:
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
        opened[group.path] = group
    return opened


def _check_path(what: str, path: str) -> None:
    if path.endswith(paths.UNDO_SUFFIX):
        raise _Refused(f"{what} {path!r} has the path of a compensation")


def _scope_depth(run: Run, opened: dict[str, GroupOpened], path: str) -> int:
    """Depth of an open scope. Raises _Refused if it does not exist or has ended."""
    scope = run.scopes.get(path)
    if scope is not None:
        if scope.ended:
            raise _Refused(f"branch {path!r} has ended")
        return scope.depth
    group = opened.get(paths.parent(path))
    if group is None:
        raise _Refused(f"scope {path!r} does not exist")
    try:
        index = paths.branch_index(path)
    except ValueError:
        raise _Refused(f"not a branch path: {path!r}") from None
    # int() also reads "+1", "01" and digits of other scripts; a scope has one spelling.
    if not 0 <= index < group.branches or path != paths.branch_path(group.path, index):
        raise _Refused(f"group {group.path!r} has {group.branches} branches; there is no {path!r}")
    return _scope_depth(run, opened, paths.parent(group.path)) + 1


def _check_steps(run: Run, plan: Plan, opened: dict[str, GroupOpened], config: CoreConfig) -> None:
    if len(run.steps) + len(plan.steps) > config.steps_per_run_max:
        raise _Refused(f"run exceeds {config.steps_per_run_max} steps", ErrorCode.LIMIT_EXCEEDED)
    seen: set[str] = set()
    scopes: set[str] = set()
    for step in plan.steps:
        if step.path in run.steps or step.path in seen or step.path in run.groups or step.path in opened:
            raise _Refused(f"step {step.path!r} was planned already")
        _check_path("step", step.path)
        if step.kind is not StepKind.RUN or step.undo is not None or step.spec is not None:
            _check_kind(step, config)
        if step.input is not None:
            _check_size(f"input of step {step.path!r}", step.input, config)
        seen.add(step.path)
        scopes.add(paths.parent(step.path))
    for scope in scopes:
        _scope_depth(run, opened, scope)


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


def _check_body_ended(plan: Plan, config: CoreConfig) -> None:
    if plan.body_ended is not None:
        _check_size("the output of the flow", plan.body_ended.output, config)
        _check_size("the input of the successor", plan.body_ended.restart, config)


def _check_ends(run: Run, plan: Plan, opened: dict[str, GroupOpened]) -> None:
    planned = {s.path for s in plan.steps}
    for path in plan.abandoned:
        if path not in run.steps and path not in planned:
            raise _Refused(f"abandoned step {path!r} was never planned")
    ended: dict[str, list[tuple[int, BranchOutcome]]] = {}
    seen: set[str] = set()
    for branch in plan.branches_ended:
        _scope_depth(run, opened, branch.path)
        if branch.path == paths.ROOT:
            raise _Refused("the root is not a branch")
        if branch.path in seen:
            raise _Refused(f"branch {branch.path!r} ended twice")
        seen.add(branch.path)
        siblings = ended.setdefault(paths.parent(branch.path), [])
        siblings.append((paths.branch_index(branch.path), branch.outcome))
    for group in plan.groups_ended:
        known = run.groups.get(group.path)
        spec = known.opened if known else opened.get(group.path)
        if spec is None or (known is not None and known.ended is not None) or group.path in seen:
            raise _Refused(f"group {group.path!r} is not open")
        seen.add(group.path)
        branches = (known.ended_branches if known else []) + ended.get(group.path, [])
        expected = group_verdict(spec, branches, expired=known is not None and known.expired)
        if expected != group:
            raise _Refused(f"verdict of group {group.path!r}: the host says {group}, its branches say {expected}")
