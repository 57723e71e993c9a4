"""Plans and the policies of their steps, in both directions: hosts send them, snapshots give them back."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from stepwire.protocol import limits
from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    GroupEnded,
    GroupOpened,
    Plan,
    RetryPolicy,
    StepPlanned,
)
from stepwire.protocol.wire.payloads import failure_from_pb, failure_to_pb
from stepwire.protocol.wire.scalars import (
    BACKOFFS,
    BRANCH_OUTCOMES,
    FAIL_POLICIES,
    KINDS,
    MODES,
    VERDICTS,
    checked_path,
    duration_from_pb,
    duration_to_pb,
    fence_from_pb,
    fence_to_pb,
    limit_from_pb,
    limit_to_pb,
    undecodable,
)
from stepwire.protocol.wire.transfers import Inbound, Outgoing
from stepwire.v1 import plan_pb2

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
        target.abandoned.add().path = path
    add_branch: Any = target.branches_ended.add
    for branch in plan.branches_ended:
        message = add_branch()
        message.path = branch.path
        message.outcome = branch.outcome
        if branch.failure is not None:
            failure_to_pb(branch.failure, message.failure)
    add_end: Any = target.groups_ended.add
    for ended in plan.groups_ended:
        message = add_end()
        message.path = ended.path
        message.verdict = ended.verdict
        message.winner = ended.winner
        message.losers.extend(ended.losers)
    if plan.body_ended is not None:
        target.body_ended.SetInParent()
        if plan.body_ended.output is not None:
            out.payload(plan.body_ended.output, target.body_ended.output)
        if plan.body_ended.failure is not None:
            failure_to_pb(plan.body_ended.failure, target.body_ended.failure)


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


def _steps_to_pb(steps: Iterable[StepPlanned], target: plan_pb2.Plan, out: Outgoing) -> None:
    add: Any = target.steps.add  # Any: the stubs want their own enum classes, the runtime takes any int
    for step in steps:
        message = add()
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


def plan_from_pb(value: plan_pb2.Plan, inbound: Inbound) -> Plan:
    if not value.plan_seq:
        undecodable("a plan has no plan_seq")
    return Plan(
        value.plan_seq,
        value.after_release,
        fence_from_pb(value.fence),
        tuple(map(_group_from_pb, value.groups)),
        tuple([_step_from_pb(step, inbound) for step in value.steps]),
        tuple([checked_path(abandoned.path) for abandoned in value.abandoned]),
        tuple(map(_branch_from_pb, value.branches_ended)),
        tuple(map(_group_end_from_pb, value.groups_ended)),
        BodyEnded(*output_or_failure(value.body_ended, inbound, "the end of a body"))
        if value.HasField("body_ended")
        else None,
    )


def _group_from_pb(value: plan_pb2.GroupOpened) -> GroupOpened:
    return GroupOpened(
        checked_path(value.path),
        value.branches,
        MODES[value.mode],
        FAIL_POLICIES[value.fail],
        value.quorum,
        value.cancel_siblings,
        value.limit,
        value.concurrent,
        tuple(value.names),
    )


def _step_from_pb(value: plan_pb2.StepPlanned, inbound: Inbound) -> StepPlanned:
    return StepPlanned(
        checked_path(value.path),
        KINDS[value.kind],
        value.name,
        inbound.payload(value.input) if value.HasField("input") else None,
        retry_policy_from_pb(value.retry) if value.HasField("retry") else None,
        limit_from_pb(value.timeout),
        value.started,
        value.concurrent,
    )


def _branch_from_pb(value: plan_pb2.BranchEnded) -> BranchEnded:
    outcome = BRANCH_OUTCOMES[value.outcome]
    failed = value.HasField("failure")
    if failed != (outcome is BranchOutcome.FAILED):
        undecodable("a branch has a failure exactly if it failed")
    return BranchEnded(checked_path(value.path), outcome, failure_from_pb(value.failure) if failed else None)


def _group_end_from_pb(value: plan_pb2.GroupEnded) -> GroupEnded:
    return GroupEnded(checked_path(value.path), VERDICTS[value.verdict], value.winner, tuple(value.losers))


def output_or_failure(value: Any, inbound: Inbound, what: str) -> tuple[Payload | None, Failure | None]:
    if value.HasField("output"):
        if value.HasField("failure"):
            undecodable(f"{what} has an output and a failure")
        return inbound.payload(value.output), None
    if not value.HasField("failure"):
        undecodable(f"{what} has neither output nor failure")
    return None, failure_from_pb(value.failure)


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
