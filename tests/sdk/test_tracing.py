"""Spans of a run join one trace, across hosts, replays, children and events (MISSION V5)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.request import Request, urlopen

import pytest
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import stepwire
from stepwire import testing
from stepwire._runtime.tracing import makers_of
from stepwire._tracing import current_trace_id, current_traceparent
from stepwire.errors import RunFailed
from stepwire.flow import FlowFunction
from stepwire.protocol.frames import Advance
from stepwire.protocol.traceparent import derived_traceparent, trace_id_of
from stepwire_engine.core.entries import Entry, Planned, RunCreated
from tests.sdk.gates import Gates, turns, until
from tests.sdk.host_desk import HostDesk
from tests.sdk.spans import Spans, about, parent_id, provided, recorded, span_id, trace_id, traceparent


def plans(journal: Sequence[Entry]) -> int:
    return sum(isinstance(entry, Planned) for entry in journal)


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as made:
        yield made


def traced_flow(host: stepwire.Host, *, is_async: bool) -> FlowFunction[..., Any]:
    """A step, then a group of a step and of a group with a step."""

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("first", lambda: 1)

        async def deep() -> None:
            await ctx.group.parallel((lambda: ctx.step.run("inner", lambda: 3),), name="nested")

        await ctx.group.parallel((lambda: ctx.step.run("outer", lambda: 2), deep), name="both")

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("first", lambda: 1)

        def deep() -> None:
            ctx.group.parallel((lambda: ctx.step.run("inner", lambda: 3),), name="nested")

        ctx.group.parallel((lambda: ctx.step.run("outer", lambda: 2), deep), name="both")

    return host.flow(name="traced")(in_tasks if is_async else in_threads)


LAYERS = {
    "step first": "flow traced",
    "group both": "flow traced",
    "step outer": "group both",
    "group nested": "group both",
    "step inner": "group nested",
    "attempt first": "step first",
    "attempt outer": "step outer",
    "attempt inner": "step inner",
}
"""Whose child each span is."""


# ---- one life


@pytest.mark.live_bodies
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_spans_stand_as_groups_steps_and_attempts_do(spans: Spans, is_async: bool) -> None:
    host = stepwire.Host("shop")
    run = testing.run(host, traced_flow(host, is_async=is_async))
    assert spans.names == sorted(["flow traced", *LAYERS])
    for child, parent in LAYERS.items():
        assert parent_id(spans.one(child)) == span_id(spans.one(parent)), child
    assert spans.traces == {trace_id_of(derived_traceparent(run.record.run_id))}
    flow, attempt = about(spans.one("flow traced")), about(spans.one("attempt inner"))
    assert (flow["replayed"], flow["outcome"], flow["host"]) == (False, "ok", "shop")
    assert attempt == {
        "run_id": run.record.run_id, "flow": "traced", "host": "shop", "path": "both/[1]/nested/[0]/inner",
        "attempt": 1, "kind": "run", "outcome": "ok",
    }  # fmt: skip


def test_a_run_joins_the_trace_of_its_caller(spans: Spans) -> None:
    host = stepwire.Host("shop")
    flow = traced_flow(host, is_async=True)

    async def main() -> testing.TestRun:
        async with testing.environment(host) as env:
            with trace.get_tracer("test").start_as_current_span("request"):
                return await env.execute(flow)

    run = asyncio.run(main())
    request = spans.one("request")
    assert spans.traces == {trace_id(request)}
    assert {parent_id(span) for span in spans.named("flow traced")} == {span_id(request)}
    created = run.journal[0]
    assert isinstance(created, RunCreated) and created.traceparent[36:52] == span_id(request)


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_the_span_of_the_attempt_is_current_in_user_code(spans: Spans, is_async: bool) -> None:
    host = stepwire.Host("shop")
    seen: list[tuple[str, str]] = []

    def look() -> None:
        seen.append((current_traceparent(), current_trace_id()))

    @host.step
    async def task() -> None:
        look()

    async def in_task() -> None:
        look()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("closure", in_task if is_async else look)
        await ctx.step.run("task", task)

    testing.run(host, flow)
    attempts = [spans.one("attempt closure"), spans.one("attempt task")]
    assert seen == [(traceparent(span), trace_id(span)) for span in attempts]
    assert current_traceparent() == "" == current_trace_id()


def test_requests_of_an_instrumented_client_are_children_of_the_attempt(spans: Spans) -> None:
    host = stepwire.Host("shop")
    heard: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["traceparent"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def ask() -> None:
            headers: dict[str, str] = {}
            inject(headers)  # what instrumentations of HTTP clients do
            urlopen(Request(f"http://127.0.0.1:{server.server_port}/", headers=headers)).close()

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("ask", ask)

        testing.run(host, flow)
        server.shutdown()
    assert heard == [traceparent(spans.one("attempt ask"))]


def test_spans_of_user_code_in_a_flow_are_children_of_its_group(spans: Spans) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        async def branch() -> None:
            with trace.get_tracer("user").start_as_current_span("thought"):
                pass

        await ctx.group.parallel((branch,), name="group")
        with trace.get_tracer("user").start_as_current_span("afterthought"):
            pass

    testing.run(host, flow)
    assert parent_id(spans.one("thought")) == span_id(spans.one("group group"))
    assert parent_id(spans.one("afterthought")) == span_id(spans.one("flow flow"))


# ---- failures


@pytest.mark.live_bodies
def test_failures_are_exception_events_of_attempt_step_and_flow(spans: Spans) -> None:
    host = stepwire.Host("shop")

    def fail() -> None:
        raise ValueError("no such order")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("look", fail, retries=1)

    with pytest.raises(RunFailed):
        _ = testing.run(host, flow).output
    attempts = spans.named("attempt look")
    assert [about(span)["attempt"] for span in attempts] == [1, 2]
    for span in (*attempts, spans.one("step look"), spans.named("flow flow")[-1]):
        assert span.status.status_code is StatusCode.ERROR and about(span)["outcome"] == "failed"
        (event,) = span.events
        attributes = event.attributes or {}
        assert event.name == "exception" and "no such order" in str(attributes["exception.message"])
        assert "Traceback" in str(attributes["exception.stacktrace"])
    assert about(spans.one("step look"))["attempts"] == 2
    assert {parent_id(span) for span in attempts} == {span_id(spans.one("step look"))}


@pytest.mark.live_bodies
def test_what_a_lost_race_cancels_is_no_error(spans: Spans) -> None:
    async def main() -> None:
        host = stepwire.Host("shop")
        gates = Gates()

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.group.race(
                (lambda: ctx.step.run("slow", gates.wait, "never"), lambda: ctx.step.run("fast", gates.wait, "fast")),
                name="race",
            )

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await until("both run", lambda: len(gates.reached) == 2)
            gates.open("fast")
            await env.finish(flow, run_id)
            await until("the loser stops", lambda: spans.named("attempt slow"))

    asyncio.run(main())
    for name in ("step slow", "attempt slow"):
        assert about(spans.one(name))["outcome"] == "cancelled"
        assert spans.one(name).status.status_code is StatusCode.UNSET
    assert about(spans.one("group race"))["outcome"] == "ok"


@pytest.mark.live_bodies
def test_a_group_that_fails_is_an_error(spans: Spans) -> None:
    host = stepwire.Host("shop")

    def fail() -> None:
        raise ValueError("no")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.group.parallel((lambda: ctx.step.run("s", fail, retries=0),), name="group")

    testing.run(host, flow)
    group = spans.one("group group")
    assert (about(group)["outcome"], group.status.status_code) == ("failed", StatusCode.ERROR)


def test_a_step_that_the_flow_gives_up_on_is_abandoned(spans: Spans) -> None:
    async def main() -> None:
        host = stepwire.Host("shop")
        gates = Gates()

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            step = ctx.step.run("s", gates.wait, "never")
            step.cancel()
            await ctx.step.run("next", lambda: 1)

        async with testing.environment(host) as env:
            await env.run(flow)

    asyncio.run(main())
    assert about(spans.one("step s"))["outcome"] == "abandoned"
    assert spans.one("step s").status.status_code is StatusCode.UNSET


def test_an_undo_is_a_child_of_the_step_that_it_undoes(spans: Spans) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", lambda: 17, compensate=lambda charged: None)
        raise ValueError("too late")

    testing.run(host, flow)
    assert parent_id(spans.one("undo charge")) == span_id(spans.one("step charge"))
    assert about(spans.one("undo charge"))["path"] == "charge#undo"


# ---- other lives and other runs


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_replay_makes_no_span_again_and_links_the_lives_of_the_body(spans: Spans, is_async: bool) -> None:
    host = stepwire.Host("shop")
    run = testing.run(host, traced_flow(host, is_async=is_async), replay=True)
    assert run.body_entries > 2
    lives = spans.named("flow traced")
    assert len(lives) == run.body_entries
    for name in ("step first", "step outer", "step inner", "attempt first", "attempt outer", "attempt inner"):
        assert len(spans.named(name)) == 1, name
    assert len(spans.traces) == 1
    assert [about(span)["replayed"] for span in lives] == [False] + [True] * (len(lives) - 1)
    assert [about(span)["outcome"] for span in lives] == ["evicted"] * (len(lives) - 1) + ["ok"]
    steps = {span_id(span) for span in spans.all if span.name.startswith("step ")}
    for life in lives[1:]:
        (link,) = life.links
        assert f"{link.context.span_id:016x}" in steps
    for name in ("first", "outer", "inner"):
        assert parent_id(spans.one(f"attempt {name}")) == span_id(spans.one(f"step {name}"))


def test_a_snapshot_in_parts_makes_no_span_of_what_its_rest_says(spans: Spans) -> None:
    host = stepwire.Host("shop")
    flow = traced_flow(host, is_async=True)

    async def main() -> None:
        async with HostDesk(host) as desk:
            await desk.play(flow)
            desk.runtime._new_body = makers_of("shop", True).body
            fence = desk.start(flow, more=True)
            await turns()
            assert spans.all == ()
            desk.say(advance=Advance(fence, tuple(desk.journal)))
            await until("it has replayed", lambda: spans.named("flow traced"))

    asyncio.run(main())
    assert spans.names == ["flow traced"]


def test_a_trace_that_is_not_sampled_is_sampled_nowhere() -> None:
    spans = Spans(ALWAYS_OFF)
    with provided(spans.provider):
        host = stepwire.Host("shop")
        run = testing.run(host, traced_flow(host, is_async=True))
    planned = [step for entry in run.journal if isinstance(entry, Planned) for step in entry.plan.steps]
    assert len(planned) == 3 and spans.all == ()
    assert {step.traceparent[-2:] for step in planned} == {"00"}


def test_the_plan_carries_the_context_of_its_step(spans: Spans) -> None:
    host = stepwire.Host("shop")
    run = testing.run(host, traced_flow(host, is_async=True))
    planned = [step for entry in run.journal if isinstance(entry, Planned) for step in entry.plan.steps]
    assert {step.path.rpartition("/")[2]: step.traceparent[36:52] for step in planned} == {
        name: span_id(spans.one(f"step {name}")) for name in ("first", "outer", "inner")
    }


def test_attempts_on_another_host_are_children_of_the_step(spans: Spans) -> None:
    shop, bank = stepwire.Host("shop"), stepwire.Host("bank")

    @bank.step
    async def charge() -> int:
        return 17

    @shop.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge)

    async def main() -> None:
        async with testing.environment(shop, bank) as env:
            await env.run(flow)

    asyncio.run(main())
    attempt = spans.one("attempt charge")
    assert parent_id(attempt) == span_id(spans.one("step charge"))
    assert (about(attempt)["host"], about(attempt)["kind"]) == ("bank", "task")


def test_attempts_of_a_host_without_spans_of_flows_join_the_trace_of_the_run(spans: Spans) -> None:
    shop, bank = stepwire.Host("shop", tracing=False), stepwire.Host("bank")

    @bank.step
    async def charge() -> int:
        return 17

    @shop.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge)

    async def main() -> str:
        async with testing.environment(shop, bank) as env:
            return (await env.execute(flow)).record.run_id

    run_id = asyncio.run(main())
    assert spans.names == ["attempt charge"]
    assert trace_id(spans.one("attempt charge")) == trace_id_of(derived_traceparent(run_id))


def test_a_child_run_joins_the_trace_under_its_step(spans: Spans) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def child(ctx: stepwire.Context) -> int:
        return 17

    @host.flow
    async def parent(ctx: stepwire.Context) -> int:
        return int(await ctx.step.invoke("ask", child))

    assert testing.run(host, parent).output == 17
    assert parent_id(spans.one("flow child")) == span_id(spans.one("step ask"))
    assert len(spans.traces) == 1


@pytest.mark.parametrize("sender", ["step", "client"])
def test_a_run_that_an_event_starts_joins_the_trace_of_the_sender(spans: Spans, sender: str) -> None:
    host = stepwire.Host("shop")

    @host.flow(on="paid")
    async def ship(ctx: stepwire.Context, event: stepwire.Event) -> None: ...

    @host.flow
    async def pay(ctx: stepwire.Context) -> None:
        await ctx.step.send_event("tell", stepwire.Event("paid"))

    async def main() -> None:
        async with testing.environment(host) as env:
            if sender == "step":
                await env.run(pay)
            else:
                with trace.get_tracer("test").start_as_current_span("request"):
                    await env.send(stepwire.Event("paid"))
            (run_id,) = await env.started(ship)
            await env.finish(ship, run_id)

    asyncio.run(main())
    above = spans.one("step tell" if sender == "step" else "request")
    assert parent_id(spans.one("flow ship")) == span_id(above)
    assert len(spans.traces) == 1


@pytest.mark.live_bodies
def test_a_lost_host_leaves_no_orphan_behind(spans: Spans) -> None:
    """Its own spans are gone with it; what others do later still joins the trace."""

    async def main() -> None:
        host = stepwire.Host("shop")
        gates = Gates()

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("before", lambda: 1)
            await ctx.step.run("cut", gates.wait, "cut")

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await until("the plan of the step is committed", lambda: plans(env.journal(run_id)) == 2)
            await env.crash(host)
            gates.open("cut")
            await env.finish(flow, run_id)

    asyncio.run(main())
    assert len(spans.traces) == 1
    attempts = spans.named("attempt cut")
    assert {parent_id(span) for span in attempts} == {span_id(spans.one("step cut"))}
    assert [about(span)["replayed"] for span in spans.named("flow flow")] == [False, True]


def test_a_flow_that_goes_astray_says_so(spans: Spans) -> None:
    host = stepwire.Host("shop")
    names = iter(["first", "other", "other"])

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run(next(names), lambda: 1)

    run = testing.run(host, flow, replay=True)
    assert run.record.state.name == "PAUSED"
    astray = spans.named("flow flow")[-1]
    assert about(astray)["outcome"] == "failed" and astray.status.status_code is StatusCode.ERROR


# ---- a provider that fails


class Broken(SpanProcessor):
    """Raises at the beginning or the end of every span."""

    def __init__(self, *, at_start: bool) -> None:
        self._at_start = at_start

    def on_start(self, span: object, parent_context: object = None) -> None:
        if self._at_start:
            raise RuntimeError("the collector is gone")

    def on_end(self, span: object) -> None:
        raise RuntimeError("the collector is gone")


@pytest.mark.parametrize("at_start", [True, False], ids=["start", "end"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_a_provider_that_fails_harms_no_run(at_start: bool, is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans()
    spans.provider.add_span_processor(Broken(at_start=at_start))
    with provided(spans.provider):
        host = stepwire.Host("shop")
        assert testing.run(host, traced_flow(host, is_async=is_async), replay=True).succeeded
    (complaint,) = [record for record in caplog.records if "provider of spans" in record.message]
    assert complaint.exc_info is not None and "shop" in complaint.message


# ---- what joins it


def test_log_lines_of_an_attempt_name_its_trace(spans: Spans) -> None:
    host = stepwire.Host("shop")
    lines: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    logger = logging.getLogger("test.tracing")
    logger.addHandler(Handler())
    logger.setLevel("INFO")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("say", lambda: logger.info("said"))

    run = testing.run(host, flow)
    (line,) = lines
    assert line.trace_id == trace_id_of(derived_traceparent(run.record.run_id))  # type: ignore[attr-defined]


def test_a_failure_that_is_not_for_human_eyes_is_on_no_span(spans: Spans) -> None:
    host = stepwire.Host("shop")

    @host.step(redact="failure")
    def charge() -> None:
        raise ValueError("the card of Ada")

    @host.flow(redact="failure")
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge, retries=0)

    testing.run(host, flow)
    told = "".join(span.to_json() for span in spans.all)
    assert "exception" in told and "Ada" not in told
