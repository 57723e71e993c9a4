"""RunService over loopback, spoken to with plain bytes: what it refuses, how it answers, when it sends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BranchOutcome, Event, FailPolicy, ParallelMode, StepKind, Verdict
from stepwire.v1 import payload_pb2, plan_pb2, run_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core.entries import RunState, RunStats
from stepwire_engine.core.history import AttemptView, GroupView, RunView, StepStateView, StepView
from stepwire_engine.core.model import RunPhase
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import LogRow, RunRecord
from stepwire_engine.transport import run_messages, run_service
from stepwire_engine.transport.run_messages import run_to_pb
from stepwire_engine.transport.status import EXIT_CODES, STATUS, stream_status
from tests.transport.run_engine import PAYLOAD_BYTES_MAX, LoopbackEngine, TablePort, ended_run, open_run, passed

FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...")
METHODS = [
    "Start", "StartMany", "Get", "List", "Resume", "Cancel", "SendEvent", "Logs", "Watch", "Await", "AwaitOne",
    "StartAndAwait",
]  # fmt: skip
STREAMS = ("Watch", "Await")
NOT_A_MESSAGE = b"\x0a\xff"


class Refused(NamedTuple):
    status: grpc.StatusCode
    code: str
    message: str
    ref: str


class Peer:
    """A client that knows gRPC and nothing of Stepwire's SDK."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", run_messages.ANSWER_BYTES_MAX)]
        self.channel = grpc.insecure_channel(address, options=options)

    def send(self, method: str, data: bytes) -> bytes:
        path = f"/stepwire.v1.RunService/{method}"
        if method in STREAMS:
            stream: Any = self.channel.unary_stream(path)
            return b"".join(stream(data, timeout=10))
        call: Any = self.channel.unary_unary(path)
        answer: bytes = call(data, timeout=10)
        return answer

    def watch(self, run_id: str, steps: bool = False) -> Any:
        request = pb.WatchRequest(run_id=run_id, include_steps=steps).SerializeToString()
        stream: Any = self.channel.unary_stream("/stepwire.v1.RunService/Watch")
        return stream(request, timeout=10)

    def ends(self, *run_ids: str, **options: Any) -> Any:
        request = pb.AwaitRequest(run_ids=run_ids, **options).SerializeToString()
        stream: Any = self.channel.unary_stream("/stepwire.v1.RunService/Await")
        return stream(request, timeout=10)

    def end(self, run_id: str, **options: Any) -> run_pb2.Run:
        request = pb.AwaitOneRequest(run_id=run_id, **options)
        return pb.AwaitOneResponse.FromString(self.send("AwaitOne", request.SerializeToString())).run

    def refusal(self, method: str, request: Message | bytes) -> Refused:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            self.send(method, data)
        error: Any = caught.value
        trailers = dict(error.trailing_metadata())
        return Refused(error.code(), trailers["stepwire-code"], error.details(), trailers["stepwire-ref"])


def once(**start: Any) -> pb.StartAndAwaitRequest:
    return pb.StartAndAwaitRequest(start=pb.StartRequest(**start))


def many(*flows: str) -> pb.StartManyRequest:
    return pb.StartManyRequest(runs=[pb.StartRequest(flow=flow) for flow in flows])


@pytest.fixture
def peer(engine: LoopbackEngine, port: TablePort) -> Iterator[Peer]:
    peer = Peer(engine.address)
    yield peer
    peer.channel.close()


# ---- calls


def test_start_hands_flow_input_and_key_to_the_engine(peer: Peer, port: TablePort) -> None:
    request = pb.StartRequest(flow="orders", input=payload_pb2.Payload(data=b"17"), id="order-17")
    first = pb.StartResponse.FromString(peer.send("Start", request.SerializeToString()))
    again = pb.StartResponse.FromString(peer.send("Start", request.SerializeToString()))
    assert (first.run_id, first.existing, again.run_id, again.existing) == ("r1", False, "r1", True)
    assert port.asked[0] == ("start", "orders", Payload(b"17"), "order-17")


def test_no_input_is_null(peer: Peer, port: TablePort) -> None:
    peer.send("Start", pb.StartRequest(flow="orders").SerializeToString())
    assert port.asked == [("start", "orders", NULL, "")]


def test_get_answers_with_the_record(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = ended_run()
    request = pb.GetRequest(run_id="r1", include_steps=True)
    run = pb.GetResponse.FromString(peer.send("Get", request.SerializeToString())).run
    assert (run.run_id, run.state, run.output.data) == ("r1", run_pb2.RUN_STATE_SUCCEEDED, b'"done"')
    assert port.asked == [("view", "r1", True)]


def test_list_asks_for_a_hundred_by_default_and_answers_with_lines(peer: Peer, port: TablePort) -> None:
    port.records = [RunRecord(1, "r1", "orders", RunState.FAILED, 1000, 2500, "key")]
    answer = pb.ListResponse.FromString(peer.send("List", b""))
    (run,) = answer.runs
    assert (run.run_id, run.flow, run.state, run.id) == ("r1", "orders", run_pb2.RUN_STATE_FAILED, "key")
    assert (run.created_at.ToMilliseconds(), run.ended_at.ToMilliseconds()) == (1000, 2500)
    assert port.asked == [("list", "", (), 100, "")]


def test_a_run_whose_record_is_damaged_is_listed_with_the_reason(peer: Peer, port: TablePort) -> None:
    port.records = [RunRecord(n, f"r{n}", "orders", RunState.RUNNING, 0) for n in (1, 2)]
    port.unreadable = frozenset({1})
    answer = pb.ListResponse.FromString(peer.send("List", b""))
    assert [run.reason for run in answer.runs] == [0, run_pb2.WAIT_REASON_JOURNAL_UNREADABLE]


def test_list_passes_filters_on(peer: Peer, port: TablePort) -> None:
    request = pb.ListRequest(flow="f", states=[run_pb2.RUN_STATE_PAUSED], page_size=1000, page_token="r9")
    peer.send("List", request.SerializeToString())
    assert port.asked == [("list", "f", (RunState.PAUSED,), 1000, "r9")]


def test_resume_is_passed_on(peer: Peer, port: TablePort) -> None:
    assert peer.send("Resume", pb.ResumeRequest(run_id="r1").SerializeToString()) == b""
    assert port.asked == [("resume", "r1")]


@pytest.mark.parametrize("undo", [None, True, False])
def test_cancel_says_whether_to_undo_or_leaves_it_to_the_flow(peer: Peer, port: TablePort, undo: bool | None) -> None:
    assert peer.send("Cancel", pb.CancelRequest(run_id="r1", undo=undo).SerializeToString()) == b""
    assert port.asked == [("cancel", "r1", undo)]


def test_logs_are_asked_for_with_every_filter_and_answered_with_every_field(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    port.lines = [LogRow(1_500, "a", 2, 30, "shop", "declined", "h", 7)]
    port.dropped = 6
    request = pb.LogsRequest(run_id="r1", path="a", attempt=2, level_min=30, after=3, limit=10)
    answer = pb.LogsResponse.FromString(peer.send("Logs", request.SerializeToString()))
    assert port.asked[0] == ("logs", "r1", "a", 2, 30, 3, 10)
    assert (answer.next, answer.dropped) == (7, 6)
    (line,) = answer.lines
    assert (line.number, line.path, line.attempt, line.level) == (7, "a", 2, 30)
    assert (line.logger, line.message, line.host, line.at.ToMilliseconds()) == ("shop", "declined", "h", 1_500)


def test_a_hundred_lines_are_asked_for_by_default(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    peer.send("Logs", pb.LogsRequest(run_id="r1").SerializeToString())
    assert port.asked[0] == ("logs", "r1", "", 0, 0, 0, 100)


def test_an_event_is_handed_over_with_its_id_and_time(peer: Peer, port: TablePort) -> None:
    event = plan_pb2.Event(name="order/paid", data=payload_pb2.Payload(data=b'{"n":1}'), id="e1")
    event.at.FromMilliseconds(1_767_225_600_250)
    request = pb.SendEventRequest(event=event).SerializeToString()
    first = pb.SendEventResponse.FromString(peer.send("SendEvent", request))
    again = pb.SendEventResponse.FromString(peer.send("SendEvent", request))
    assert (first.event_id, first.existing, again.event_id, again.existing) == ("e1", False, "e1", True)
    assert port.asked[0] == ("send", Event("order/paid", Payload(b'{"n":1}'), "e1", 1_767_225_600_250))


def test_an_event_needs_only_a_name(peer: Peer, port: TablePort) -> None:
    request = pb.SendEventRequest(event=plan_pb2.Event(name="ping"))
    answer = pb.SendEventResponse.FromString(peer.send("SendEvent", request.SerializeToString()))
    assert (answer.event_id, answer.existing) == ("made", False)
    assert port.asked == [("send", Event("ping", NULL))]


def test_event_data_of_another_encoding_are_opaque(peer: Peer, port: TablePort) -> None:
    event = plan_pb2.Event(name="ping", data=payload_pb2.Payload(data=b"\xff", encoding="json+aes"))
    peer.send("SendEvent", pb.SendEventRequest(event=event).SerializeToString())
    assert port.asked == [("send", Event("ping", Payload(b"\xff", "json+aes")))]


# ---- refusals


@pytest.mark.parametrize("method", METHODS)
def test_malformed_bytes_are_the_callers_fault(peer: Peer, port: TablePort, method: str) -> None:
    refused = peer.refusal(method, NOT_A_MESSAGE)
    assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "undecodable")
    assert refused.message == f"the request is not a {method}Request of this protocol"
    assert refused.ref.startswith("ref-")
    assert port.asked == []


def _event(**fields: Any) -> pb.SendEventRequest:
    return pb.SendEventRequest(event=plan_pb2.Event(**({"name": "ping"} | fields)))


def _event_of(data: bytes) -> pb.SendEventRequest:
    return _event(data=payload_pb2.Payload(data=data))


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Cancel", pb.CancelRequest(), "run_id"),
        ("Cancel", pb.CancelRequest(run_id="r" * 257), "run_id"),
        ("SendEvent", pb.SendEventRequest(), "event"),
        ("SendEvent", _event(name=""), "event.name"),
        ("SendEvent", _event(name="é" * 129), "event.name"),
        ("SendEvent", _event(id="k" * 257), "event.id"),
        ("SendEvent", _event(data=payload_pb2.Payload(encoding="e" * 257)), "event.data.encoding"),
        ("SendEvent", _event_of(b""), "event.data"),
        ("SendEvent", _event_of(b"{"), "event.data"),
        ("SendEvent", _event_of(b"1 2"), "event.data"),
        ("SendEvent", _event_of(b"NaN"), "event.data"),
        ("SendEvent", _event_of(b'"\xff"'), "event.data"),
        ("SendEvent", _event_of(b"[" * 5000 + b"]" * 5000), "event.data"),
        ("Start", pb.StartRequest(), "flow"),
        ("Start", pb.StartRequest(flow="f" * 257), "flow"),
        ("Start", pb.StartRequest(flow="é" * 129), "flow"),
        ("Start", pb.StartRequest(flow="f", id="k" * 257), "id"),
        ("Start", pb.StartRequest(flow="f", input=payload_pb2.Payload(encoding="e" * 257)), "input.encoding"),
        ("StartAndAwait", pb.StartAndAwaitRequest(), "start"),
        ("StartAndAwait", once(), "start.flow"),
        ("StartAndAwait", once(flow="f" * 257), "start.flow"),
        ("StartAndAwait", once(flow="f", id="k" * 257), "start.id"),
        ("StartAndAwait", once(flow="f", input=payload_pb2.Payload(encoding="e" * 257)), "start.input.encoding"),
        ("Get", pb.GetRequest(), "run_id"),
        ("StartMany", pb.StartManyRequest(), "runs"),
        ("StartMany", many(*["f"] * 1001), "runs"),
        ("StartMany", many("f", ""), "runs[1].flow"),
        ("StartMany", many("f", "f" * 257), "runs[1].flow"),
        ("StartMany", pb.StartManyRequest(runs=[pb.StartRequest(flow="f", id="k" * 257)]), "runs[0].id"),
        ("Await", pb.AwaitRequest(), "run_ids"),
        ("Await", pb.AwaitRequest(run_ids=[f"r{n}" for n in range(1001)]), "run_ids"),
        ("Await", pb.AwaitRequest(run_ids=["r", ""]), "run_ids[1]"),
        ("Await", pb.AwaitRequest(run_ids=["r", "r" * 257]), "run_ids[1]"),
        ("Await", pb.AwaitRequest(run_ids=["r1", "r2", "r1"]), "run_ids"),
        ("AwaitOne", pb.AwaitOneRequest(), "run_id"),
        ("AwaitOne", pb.AwaitOneRequest(run_id="r" * 257), "run_id"),
        ("Watch", pb.WatchRequest(), "run_id"),
        ("Watch", pb.WatchRequest(run_id="r" * 257), "run_id"),
        ("Resume", pb.ResumeRequest(), "run_id"),
        ("Logs", pb.LogsRequest(), "run_id"),
        ("Logs", pb.LogsRequest(run_id="r", path="x" * 20_000), "path"),
        ("Logs", pb.LogsRequest(run_id="r", path="\x1b[2J"), "path"),
        ("Logs", pb.LogsRequest(run_id="r", limit=1001), "limit"),
        ("Logs", pb.LogsRequest(run_id="r", after=2**63), "after"),
        ("List", pb.ListRequest(flow="f" * 257), "flow"),
        ("List", pb.ListRequest(page_size=1001), "page_size"),
        ("List", pb.ListRequest(page_token="../r1"), "page_token"),
        ("List", pb.ListRequest(page_token="r0"), "page_token"),
        ("List", pb.ListRequest.FromString(b"\x12\x01\x63"), "states"),
    ],
)
def test_arguments_out_of_bounds_are_refused_by_name(
    peer: Peer, port: TablePort, method: str, request_: Message, field: str
) -> None:
    refused = peer.refusal(method, request_)
    assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument")
    assert refused.message.startswith(field + " ")
    assert port.asked == []


def test_the_longest_names_are_allowed(peer: Peer, port: TablePort) -> None:
    peer.send("Start", pb.StartRequest(flow="f" * 256, id="k" * 256).SerializeToString())
    peer.send("SendEvent", _event(name="f" * 256, id="k" * 256).SerializeToString())
    assert len(port.asked) == 2


def test_a_time_before_1970_is_malformed(peer: Peer, port: TablePort) -> None:
    request = _event()
    request.event.at.seconds = -1
    refused = peer.refusal("SendEvent", request)
    assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "undecodable")
    assert port.asked == []


def test_event_data_over_the_limit_are_refused(peer: Peer, port: TablePort) -> None:
    refused = peer.refusal("SendEvent", _event_of(b'"' + b"x" * (PAYLOAD_BYTES_MAX - 1) + b'"'))
    assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "payload_too_large")
    peer.send("SendEvent", _event_of(b'"' + b"x" * (PAYLOAD_BYTES_MAX - 2) + b'"').SerializeToString())
    assert len(port.asked) == 1


def test_a_payload_over_the_limit_is_refused(peer: Peer, port: TablePort) -> None:
    payload = payload_pb2.Payload(data=bytes(PAYLOAD_BYTES_MAX + 1))
    for method, request in (
        ("Start", pb.StartRequest(flow="f", input=payload)),
        ("StartAndAwait", once(flow="f", input=payload)),
    ):
        refused = peer.refusal(method, request)
        assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "payload_too_large")
        assert str(PAYLOAD_BYTES_MAX) in refused.message
    fits = payload_pb2.Payload(data=bytes(PAYLOAD_BYTES_MAX))
    peer.send("Start", pb.StartRequest(flow="f", input=fits).SerializeToString())


def test_a_payload_in_chunks_is_refused(peer: Peer) -> None:
    refused = peer.refusal("Start", pb.StartRequest(flow="f", input=payload_pb2.Payload(transfer_id=1)))
    assert (refused.status, refused.code) == (grpc.StatusCode.INVALID_ARGUMENT, "undecodable")


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.slug)
def test_every_code_reaches_the_peer_with_its_status(peer: Peer, port: TablePort, code: ErrorCode) -> None:
    port.refusal = CallRefused(code, "told to the peer")
    calls: dict[str, Message] = {
        "Get": pb.GetRequest(run_id="r1"),
        "Watch": pb.WatchRequest(run_id="r1"),
        "StartMany": many("f"),
        "Await": pb.AwaitRequest(run_ids=["r1"]),
        "AwaitOne": pb.AwaitOneRequest(run_id="r1"),
        "StartAndAwait": once(flow="f"),
    }
    for method, request in calls.items():
        refused = peer.refusal(method, request)
        assert refused[:3] == (STATUS[code].grpc, code.slug, "told to the peer")
        assert refused.ref


@pytest.mark.parametrize("method", METHODS)
def test_an_error_of_the_engine_stays_inside(
    peer: Peer, port: TablePort, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    port.refusal = RuntimeError("secret: /var/lib/x")
    requests: dict[str, Message] = {
        "Start": pb.StartRequest(flow="f"),
        "StartMany": many("f"),
        "StartAndAwait": once(flow="f"),
        "Await": pb.AwaitRequest(run_ids=["r1"]),
        "List": pb.ListRequest(),
        "Resume": pb.ResumeRequest(run_id="r"),
        "SendEvent": _event(),
    }
    with caplog.at_level(logging.ERROR):
        refused = peer.refusal(method, requests.get(method, pb.GetRequest(run_id="r1")))
    assert (refused.status, refused.code) == (grpc.StatusCode.INTERNAL, "internal")
    assert refused.message == f"internal error (ref {refused.ref})"
    (record,) = [r for r in caplog.records if r.name == "stepwire.engine.calls"]
    assert refused.ref in record.getMessage()
    assert record.exc_info is not None and "secret" in str(record.exc_info[1])


def test_a_long_refusal_still_fits_into_headers(peer: Peer, port: TablePort) -> None:
    port.refusal = CallRefused(ErrorCode.UNKNOWN_FLOW, "known: " + "é" * 100_000)
    refused = peer.refusal("Get", pb.GetRequest(run_id="r1"))
    assert (refused.status, refused.code) == (grpc.StatusCode.NOT_FOUND, "unknown_flow")
    assert len(refused.message.encode()) <= 1024


def test_the_table_has_every_code() -> None:
    assert STATUS.keys() == EXIT_CODES.keys() == set(ErrorCode)
    assert {status.exit_code for status in STATUS.values()} <= {1, 2, 3, 4, 5}
    assert all(400 <= status.http < 600 for status in STATUS.values())
    assert stream_status(ErrorCode.PAYLOAD_TOO_LARGE) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stream_status(ErrorCode.STALE) is grpc.StatusCode.ABORTED


# ---- watch


def test_watch_sends_the_run_and_its_changes_until_it_has_ended(
    peer: Peer, port: TablePort, engine: LoopbackEngine
) -> None:
    port.runs["r1"] = open_run(state=RunState.PENDING)
    stream = peer.watch("r1")
    states = [pb.WatchResponse.FromString(next(stream)).run.state]
    for view in (open_run(), ended_run()):
        passed(port.watched)
        engine.call(port.put, view)
        states.append(pb.WatchResponse.FromString(next(stream)).run.state)
    assert states == [run_pb2.RUN_STATE_PENDING, run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_SUCCEEDED]
    assert list(stream) == []
    passed(port.left)


def test_watch_of_an_ended_run_sends_it_once(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = ended_run()
    (data,) = peer.watch("r1", steps=True)
    assert pb.WatchResponse.FromString(data).run.output.data == b'"done"'
    assert port.asked == [("view", "r1", True)]


def test_watch_sends_many_changes_at_once_as_one(peer: Peer, port: TablePort, engine: LoopbackEngine) -> None:
    port.runs["r1"] = open_run()
    stream = peer.watch("r1", steps=True)
    next(stream)
    passed(port.watched)
    engine.call(port.put, *[open_run(stats=RunStats(plans=n)) for n in range(100)])
    assert pb.WatchResponse.FromString(next(stream)).run.stats.plans == 99
    passed(port.watched)
    engine.call(port.put, ended_run())
    assert len(list(stream)) == 1


def test_watch_without_steps_tells_states_only(peer: Peer, port: TablePort, engine: LoopbackEngine) -> None:
    """Who waits for a result has no use for every wave of the run."""
    port.runs["r1"] = open_run()
    stream = peer.watch("r1")
    next(stream)
    passed(port.watched)
    engine.call(port.put, open_run(stats=RunStats(plans=7)))
    passed(port.watched)
    engine.call(port.put, ended_run())
    assert [pb.WatchResponse.FromString(data).run.state for data in stream] == [run_pb2.RUN_STATE_SUCCEEDED]


def test_watch_does_not_repeat_a_record_that_looks_the_same(
    peer: Peer, port: TablePort, engine: LoopbackEngine
) -> None:
    port.runs["r1"] = open_run()
    stream = peer.watch("r1")
    next(stream)
    passed(port.watched)
    engine.call(port.put, open_run())
    passed(port.watched)
    engine.call(port.put, ended_run())
    assert pb.WatchResponse.FromString(next(stream)).run.state == run_pb2.RUN_STATE_SUCCEEDED


def test_a_peer_that_leaves_ends_its_watch(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    stream = peer.watch("r1")
    next(stream)
    passed(port.watched)
    stream.cancel()
    passed(port.left)


# ---- records


def full_run() -> RunView:
    step = StepView(
        path="parallel/[0]/a",
        kind=StepKind.TASK,
        name="charge",
        state=StepStateView.BACKOFF,
        planned_at_ms=1000,
        attempts=(AttemptView(1, 0.25, 1500, FAILURE, "shop"),),
        ended_at_ms=2000,
        released_at_ms=3000,
        reason=WaitReason.BACKOFF_UNTIL,
        output=Payload(b"1"),
        lost=2,
        undoes="charge",
        child_run_id="c1",
        due_at_ms=4000,
    )
    groups = (
        GroupView("parallel", ParallelMode.RACE, 2, Verdict.OK),
        GroupView(
            "map",
            ParallelMode.WAIT,
            3,
            Verdict.FAILED,
            FailPolicy.QUORUM,
            2,
            True,
            4,
            ("a", "b"),
            (BranchOutcome.OK, None, BranchOutcome.CANCELLED),
            True,
        ),
    )
    return ended_run(
        phase=RunPhase.UNDOING,
        parent_run_id="p1",
        successor_run_id="s1",
        stopping=FAILURE,
        id="key",
        failure=FAILURE,
        stats=RunStats(1, 2, 3, 4, 5, 6),
        reason=WaitReason.NO_HOST,
        steps=(step,),
        groups=groups,
    )


def test_a_record_keeps_every_field() -> None:
    run = run_pb2.Run()
    run_to_pb(full_run(), run)
    assert {field.name for field, _ in run.ListFields()} == {field.name for field in run.DESCRIPTOR.fields}
    (step,) = run.steps
    assert {field.name for field, _ in step.ListFields()} == {field.name for field in step.DESCRIPTOR.fields}
    (attempt,) = step.attempts
    assert {field.name for field, _ in attempt.ListFields()} == {field.name for field in attempt.DESCRIPTOR.fields}
    assert (attempt.elapsed.ToTimedelta().total_seconds(), attempt.failure.type) == (0.25, "ValueError")
    plain, full = run.groups
    assert {field.name for field, _ in full.ListFields()} == {field.name for field in full.DESCRIPTOR.fields}
    assert (plain.path, plain.mode, plain.branches, plain.verdict, plain.fail) == ("parallel", 2, 2, 1, 1)
    assert (list(full.names), list(full.outcomes), full.quorum, full.limit) == (["a", "b"], [1, 0, 3], 2, 4)
    assert (step.undoes, step.child_run_id, step.due_at.ToMilliseconds()) == ("charge", "c1", 4000)
    assert (run.phase, run.parent_run_id, run.successor_run_id) == (run_pb2.RUN_PHASE_UNDOING, "p1", "s1")
    assert run.stopping.type == "ValueError"
    assert [getattr(run.stats, name) for name in RunStats.__struct_fields__] == [1, 2, 3, 4, 5, 6]


def _step(path: str, **fields: Any) -> StepView:
    return StepView(path=path, kind=StepKind.RUN, name="", state=StepStateView.SUCCEEDED, planned_at_ms=1000, **fields)


def test_outputs_of_steps_over_64_kib_are_left_out() -> None:
    limit = run_messages.STEP_OUTPUT_BYTES_MAX
    run = run_pb2.Run()
    run_to_pb(
        open_run(steps=(_step("a", output=Payload(bytes(limit))), _step("b", output=Payload(bytes(limit + 1))))), run
    )
    assert [step.HasField("output") for step in run.steps] == [True, False]


def test_a_record_over_the_limit_loses_inputs_and_tracebacks_but_not_its_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_messages, "_CONTENT_BYTES_MAX", 1000)
    attempt = AttemptView(1, 0.1, 1500, Failure(ErrorCode.USER_ERROR, "E", "m", "t" * 500), "shop")
    run = run_pb2.Run()
    run_to_pb(
        ended_run(output=bytes(900), input=Payload(bytes(101)), steps=(_step("a", attempts=(attempt,)),)),
        run,
    )
    assert len(run.output.data) == 900
    assert not run.HasField("input")
    failure = run.steps[0].attempts[0].failure
    assert (failure.type, failure.message, failure.traceback) == ("E", "m", "")


def test_an_answer_that_is_still_too_large_is_a_clear_error(
    peer: Peer, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_service, "ANSWER_BYTES_MAX", 1000)
    port.runs["r1"] = open_run(steps=tuple(_step(f"s{n}") for n in range(100)))
    for method, request in (("Get", pb.GetRequest(run_id="r1")), ("Watch", pb.WatchRequest(run_id="r1"))):
        refused = peer.refusal(method, request)
        assert (refused.status, refused.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit_exceeded")
        assert "ask without include_steps" in refused.message


def test_the_largest_output_goes_through_with_its_input_left_out(peer: Peer, port: TablePort) -> None:
    size = 64 * 1024 * 1024
    port.runs["r1"] = ended_run(output=bytes(size), input=Payload(bytes(size)))
    run = pb.GetResponse.FromString(peer.send("Get", pb.GetRequest(run_id="r1").SerializeToString())).run
    assert (len(run.output.data), run.HasField("input")) == (size, False)
