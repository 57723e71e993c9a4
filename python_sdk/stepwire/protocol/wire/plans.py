"""Plans and the policies of their steps, in both directions: hosts send them, snapshots give them back."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from stepwire.protocol import limits, paths
from stepwire.protocol.bounds import undo_problem
from stepwire.protocol.failure import Failure
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    Plan,
    RetryPolicy,
    StepKind,
    StepPlanned,
    Undo,
)
from stepwire.protocol.wire.alike import branches_alike, steps_alike, told
from stepwire.protocol.wire.payloads import failure_from_pb, failure_to_pb
from stepwire.protocol.wire.scalars import (
    BACKOFFS,
    BRANCH_OUTCOMES,
    FAIL_POLICIES,
    KINDS,
    MODES,
    VERDICTS,
    check_paths,
    checked_path,
    duration_from_pb,
    duration_to_pb,
    fence_from_pb,
    fence_to_pb,
    limit_from_pb,
    limit_to_pb,
    traceparent_from_pb,
    undecodable,
)
from stepwire.protocol.wire.specs import spec_from_pb, spec_to_pb
from stepwire.protocol.wire.transfers import Inbound, Outgoing
from stepwire.v1 import plan_pb2

_TASK = StepKind.TASK
_FACTOR_MAX = 1000.0
_NON_RETRYABLE_MAX = 64


def plan_to_pb(plan: Plan, target: plan_pb2.Plan, out: Outgoing) -> None:
    target.plan_seq = plan.plan_seq
    target.after_release = plan.after_release
    fence_to_pb(plan.fence, target.fence)
    if plan.groups:
        _groups_to_pb(plan.groups, target)
    if plan.steps:
        _steps_to_pb(plan.steps, target, out)
    for path in plan.abandoned:
        target.abandoned.add(path=path)
    if plan.branches_ended:
        _branches_to_pb(plan.branches_ended, target, out)
    if plan.groups_ended:
        _group_ends_to_pb(plan.groups_ended, target)
    if plan.body_ended is not None:
        _body_end_to_pb(plan.body_ended, target.body_ended, out)


def _body_end_to_pb(ended: BodyEnded, target: plan_pb2.BodyEnded, out: Outgoing) -> None:
    target.SetInParent()
    if ended.output is not None:
        out.payload(ended.output, target.output)
    if ended.failure is not None:
        failure_to_pb(ended.failure, target.failure)
    if ended.restart is not None:
        out.payload(ended.restart, target.restart)
    if ended.cancelled:
        target.cancelled = True


def _groups_to_pb(groups: Iterable[GroupOpened], target: plan_pb2.Plan) -> None:
    add: Any = target.groups.add
    for group in groups:
        message = add()
        message.path = group.path
        message.mode = group.mode
        message.branches = group.branches
        message.fail = group.fail
        message.quorum = group.quorum
        message.cancel_siblings = group.cancel_siblings
        message.limit = group.limit
        message.concurrent = group.concurrent
        message.names.extend(group.names)
        if group.deadline is not None:
            limit_to_pb(group.deadline, message.deadline)


def _steps_to_pb(steps: Sequence[StepPlanned], target: plan_pb2.Plan, out: Outgoing) -> None:
    add: Any = target.steps.add  # Any: the stubs want their own enum classes, the runtime takes any int
    for step, like in told(steps, steps_alike, alike=out.alike):
        message = add()
        _step_to_pb(step, message, out)
        if like:
            message.alike.paths.extend([step.path for step in like])


def _step_to_pb(step: StepPlanned, message: Any, out: Outgoing) -> None:
    message.path = step.path
    message.kind = step.kind
    if step.name:
        message.name = step.name
    if step.input is not None:
        out.payload(step.input, message.input)
    if step.retry is not None:
        retry_policy_to_pb(step.retry, message.retry)
    if step.timeout is not None:
        limit_to_pb(step.timeout, message.timeout)
    if step.started:
        message.started = True
    if step.concurrent:
        message.concurrent = True
    if step.deadline is not None:
        limit_to_pb(step.deadline, message.deadline)
    if step.spec is not None:
        spec_to_pb(step.spec, message, out.payload)
    if step.undo is not None:
        _undo_to_pb(step.undo, message.undo)
    if step.traceparent:
        message.traceparent = step.traceparent


def _branches_to_pb(branches: Sequence[BranchEnded], target: plan_pb2.Plan, out: Outgoing) -> None:
    add: Any = target.branches_ended.add
    for branch, like in told(branches, branches_alike, alike=out.alike):
        message = add()
        if like:
            message.alike.paths.extend([branch.path for branch in like])
        message.path = branch.path
        message.outcome = branch.outcome
        if branch.failure is not None:
            failure_to_pb(branch.failure, message.failure)


def _group_ends_to_pb(groups: Iterable[GroupEnded], target: plan_pb2.Plan) -> None:
    add: Any = target.groups_ended.add
    for ended in groups:
        message = add()
        message.path = ended.path
        message.verdict = ended.verdict
        message.winner = ended.winner
        message.losers.extend(ended.losers)


def _undo_to_pb(undo: Undo, target: Any) -> None:
    target.kind = undo.kind
    target.name = undo.name
    if undo.retry is not None:
        retry_policy_to_pb(undo.retry, target.retry)
    if undo.timeout is not None:
        limit_to_pb(undo.timeout, target.timeout)


def plan_from_pb(value: plan_pb2.Plan, inbound: Inbound) -> Plan:
    if not value.plan_seq:
        undecodable("a plan has no plan_seq")
    groups, steps, abandoned = value.groups, value.steps, value.abandoned
    branches_ended, groups_ended = value.branches_ended, value.groups_ended
    return Plan(
        value.plan_seq,
        value.after_release,
        fence_from_pb(value.fence),
        tuple([_group_from_pb(group) for group in groups]) if groups else (),
        _steps_from_pb(steps, inbound) if steps else (),
        tuple([checked_path(step.path) for step in abandoned]) if abandoned else (),
        _branches_from_pb(branches_ended) if branches_ended else (),
        tuple([_group_end_from_pb(group) for group in groups_ended]) if groups_ended else (),
        _body_end_from_pb(value.body_ended, inbound) if value.HasField("body_ended") else None,
    )


def _body_end_from_pb(value: plan_pb2.BodyEnded, inbound: Inbound) -> BodyEnded:
    ended = BodyEnded(
        inbound.payload(value.output) if value.HasField("output") else None,
        failure_from_pb(value.failure) if value.HasField("failure") else None,
        inbound.payload(value.restart) if value.HasField("restart") else None,
        value.cancelled,
    )
    ways = (ended.output is not None) + (ended.failure is not None) + (ended.restart is not None) + ended.cancelled
    if ways != 1:
        undecodable("a body ends in exactly one way: output, failure, restart or cancelled")
    return ended


def _group_from_pb(value: plan_pb2.GroupOpened) -> GroupOpened:
    fail, quorum = FAIL_POLICIES[value.fail], value.quorum
    if (fail is FailPolicy.QUORUM) != (quorum > 0):
        undecodable(f"a group of policy {fail.name} has a quorum of {quorum}")
    return GroupOpened(
        checked_path(value.path),
        value.branches,
        MODES[value.mode],
        fail,
        quorum,
        value.cancel_siblings,
        value.limit,
        value.concurrent,
        tuple(value.names),
        limit_from_pb(value.deadline) if value.HasField("deadline") else None,
    )


def _steps_from_pb(values: Iterable[plan_pb2.StepPlanned], inbound: Inbound) -> tuple[StepPlanned, ...]:
    kinds, steps = KINDS, []
    for value in values:
        has = value.HasField  # reading an absent submessage costs three times as much as asking for it
        kind = kinds[value.kind]
        field = value.WhichOneof("spec")
        traceparent = value.traceparent
        step = StepPlanned(
            value.path,
            kind,
            value.name,
            inbound.payload(value.input) if has("input") else None,
            retry_policy_from_pb(value.retry) if has("retry") else None,
            limit_from_pb(value.timeout) if has("timeout") else None,
            value.started,
            value.concurrent,
            limit_from_pb(value.deadline) if has("deadline") else None,
            None if field is None and kind <= _TASK else spec_from_pb(value, kind, field, inbound.payload),
            _undo_from_pb(value) if has("undo") else None,
            traceparent and traceparent_from_pb(traceparent),
        )
        steps.append(step)
        if has("alike"):
            steps.extend(_like_step(step, value.alike.paths))
    check_paths([step.path for step in steps])
    return tuple(steps)


def _like_step(first: StepPlanned, paths: Iterable[str]) -> list[StepPlanned]:
    if first.input is not None or first.spec is not None or first.undo is not None or first.traceparent:
        undecodable("a step that others are like has an input, a spec, an undo or a traceparent")
    kind, name, retry, timeout = first.kind, first.name, first.retry, first.timeout
    started, concurrent, deadline = first.started, first.concurrent, first.deadline
    return [StepPlanned(path, kind, name, None, retry, timeout, started, concurrent, deadline) for path in paths]


def _undo_from_pb(step: plan_pb2.StepPlanned) -> Undo:
    value = step.undo
    undo = Undo(
        KINDS[value.kind],
        value.name,
        retry_policy_from_pb(value.retry) if value.HasField("retry") else None,
        limit_from_pb(value.timeout),
    )
    if (problem := undo_problem(undo)) is not None:
        undecodable(problem)
    checked_path(paths.undo_path(step.path))
    return undo


def _branches_from_pb(values: Iterable[plan_pb2.BranchEnded]) -> tuple[BranchEnded, ...]:
    outcomes, failed, branches = BRANCH_OUTCOMES, BranchOutcome.FAILED, []
    for value in values:
        outcome = outcomes[value.outcome]
        if value.HasField("failure") != (outcome is failed):
            undecodable("a branch has a failure exactly if it failed")
        failure = failure_from_pb(value.failure) if outcome is failed else None
        branches.append(BranchEnded(value.path, outcome, failure))
        if value.HasField("alike"):
            if failure is not None:
                undecodable("a branch that others are like has failed")
            branches.extend([BranchEnded(path, outcome) for path in value.alike.paths])
    check_paths([branch.path for branch in branches])
    return tuple(branches)


def _group_end_from_pb(value: plan_pb2.GroupEnded) -> GroupEnded:
    return GroupEnded(checked_path(value.path), VERDICTS[value.verdict], value.winner, tuple(value.losers))


def only_failure(value: Any, what: str) -> Failure:
    """The failure of an outcome that has one, and so no output."""
    if value.HasField("output"):
        undecodable(f"{what} has an output and a failure")
    return failure_from_pb(value.failure)


def retry_policy_to_pb(policy: RetryPolicy, target: plan_pb2.RetryPolicy) -> None:
    """Fill `target`."""
    target.CopyFrom(_retry_message(policy))


def retry_policy_from_pb(value: plan_pb2.RetryPolicy) -> RetryPolicy:
    """The policy. Raises WireError for one that is out of bounds (proto/README.md, "Retries")."""
    return _retry_from_bytes(value.SerializeToString())


@functools.lru_cache(maxsize=256)
def _retry_message(policy: RetryPolicy) -> plan_pb2.RetryPolicy:
    """Shared and never changed: a plan's steps mostly carry one of a few policies."""
    target = plan_pb2.RetryPolicy()
    message: Any = target
    message.max_attempts = policy.max_attempts
    message.backoff = policy.backoff
    message.factor = policy.factor
    message.jitter = policy.jitter
    message.non_retryable_types.extend(policy.non_retryable_types)
    duration_to_pb(policy.delay, target.delay)
    target.cap.SetInParent()
    duration_to_pb(policy.cap, target.cap)
    return target


@functools.lru_cache(maxsize=256)
def _retry_from_bytes(data: bytes) -> RetryPolicy:
    value = plan_pb2.RetryPolicy.FromString(data)
    factor, jitter = value.factor, value.jitter
    grows = value.backoff == plan_pb2.BACKOFF_EXPONENTIAL
    if not value.max_attempts:
        undecodable("a retry policy has max_attempts 0")
    if not (math.isfinite(factor) and (1.0 if grows else 0.0) <= factor <= _FACTOR_MAX and 0.0 <= jitter <= 1.0):
        undecodable(f"a retry policy has factor {factor} and jitter {jitter}")
    if len(value.non_retryable_types) > _NON_RETRYABLE_MAX:
        undecodable(f"a retry policy names {len(value.non_retryable_types)} types; {_NON_RETRYABLE_MAX} are allowed")
    return RetryPolicy(
        value.max_attempts,
        BACKOFFS[value.backoff],
        duration_from_pb(value.delay),
        factor,
        duration_from_pb(value.cap) if value.HasField("cap") else limits.DURATION_SECONDS_MAX,
        jitter,
        tuple(value.non_retryable_types),
    )
