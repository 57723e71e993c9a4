"""Results of attempts: with plans and releases, what a step of a wide group costs on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepwire.protocol import limits
from stepwire.protocol.frames import Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence
from stepwire.protocol.wire.alike import results_alike, told
from stepwire.protocol.wire.payloads import failure_to_pb, too_large
from stepwire.protocol.wire.plans import only_failure
from stepwire.protocol.wire.scalars import (
    NANOS,
    check_paths,
    checked_attempt,
    duration_from_pb,
    duration_to_pb,
    fence_from_pb,
    nanoseconds,
    undecodable,
)
from stepwire.protocol.wire.transfers import Inbound, Outgoing
from stepwire.v1 import host_service_pb2


def results_to_pb(results: Sequence[Result], target: host_service_pb2.HostSection, out: Outgoing) -> None:
    add, put = target.results.add, out.payload
    for result, like in told(results, results_alike, alike=out.alike):
        message = add()
        if like:
            _like_result_to_pb(like, message.alike)
        message.path = result.path
        message.attempt = result.attempt
        fence, right = result.fence, message.fence  # as fence_to_pb does it
        right.claim_epoch = fence.claim_epoch
        right.n = fence.n
        output, elapsed = result.output, result.elapsed
        if output is not None:
            put(output, message.output)
        if result.failure is not None:
            failure_to_pb(result.failure, message.failure)
        if 0.0 < elapsed < 0.9:  # as duration_to_pb does it
            message.elapsed.nanos = round(elapsed * NANOS)
        elif elapsed:
            duration_to_pb(elapsed, message.elapsed)


def _like_result_to_pb(results: Sequence[Result], target: host_service_pb2.ResultsAlike) -> None:
    target.paths.extend([result.path for result in results])
    target.outputs.extend([result.output.data for result in results if result.output is not None])
    elapsed = [result.elapsed for result in results]
    if 0.0 <= min(elapsed) and max(elapsed) < limits.DURATION_SECONDS_MAX:  # as nanoseconds does it
        target.elapsed_ns.extend([round(seconds * NANOS) for seconds in elapsed])
    else:
        target.elapsed_ns.extend(map(nanoseconds, elapsed))


def results_from_pb(values: Iterable[host_service_pb2.Result], inbound: Inbound) -> list[Result]:
    take = inbound.payload
    found = []
    for value in values:
        has, fence, elapsed = value.HasField, value.fence, value.elapsed
        epoch, seconds, nanos = fence.claim_epoch, elapsed.seconds, elapsed.nanos
        output = failure = None
        if has("failure"):
            failure = only_failure(value, "a result")
        elif has("output"):
            output = take(value.output)
        else:
            undecodable("a result has neither output nor failure")
        result = Result(
            value.path,
            value.attempt or checked_attempt(0),
            Fence(epoch, fence.n) if epoch else fence_from_pb(fence),
            output,
            failure,
            duration_from_pb(elapsed) if seconds or not 0 <= nanos < NANOS else nanos / NANOS,
        )
        found.append(result)
        if has("alike"):
            found.extend(_like_result(result, value.alike))
    check_paths([result.path for result in found])
    return found


def _like_result(first: Result, value: host_service_pb2.ResultsAlike) -> list[Result]:
    output, attempt, fence = first.output, first.attempt, first.fence
    paths, outputs, elapsed = value.paths, list(value.outputs), list(value.elapsed_ns)
    if output is None:
        undecodable("a result that others are like has no output")
    if not len(paths) == len(outputs) == len(elapsed):
        undecodable(f"results alike are {len(paths)} paths, {len(outputs)} outputs and {len(elapsed)} times")
    if not paths:
        return []
    if (size := max(map(len, outputs))) > limits.INLINE_BYTES_MAX:
        raise too_large(size, limits.INLINE_BYTES_MAX)
    if max(elapsed) > limits.DURATION_SECONDS_MAX * NANOS:
        undecodable(f"a result took {max(elapsed)} ns, more than 100 years")
    encoding, redacted = output.encoding, output.redacted
    return [
        Result(path, attempt, fence, Payload(data, encoding, redacted), None, ns / NANOS)
        for path, data, ns in zip(paths, outputs, elapsed, strict=True)
    ]
