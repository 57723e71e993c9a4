"""Log lines say whose they are, are said once however often code is replayed, and reach the engine (MISSION V1)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import stepwire
from stepwire import logs, testing
from stepwire._runtime.logs import SILENT
from stepwire.errors import ConfigurationError
from stepwire.protocol.limits import LOG_MESSAGE_BYTES_MAX
from stepwire_engine.core.entries import Planned
from tests.sdk.gates import Gates, recorded, turns, until

log = logging.getLogger("shop.checkout")


class Said(logging.Handler):
    """Everything a logger says, with the ids on each record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def origins(self) -> list[tuple[Any, ...]]:
        names = ("flow", "step", "attempt", "host")
        return [(record.getMessage(), *(getattr(record, name) for name in names)) for record in self.records]


@pytest.fixture
def said() -> Iterator[Said]:
    """What loggers below `shop` say, at every level."""
    handler = Said()
    shop = logging.getLogger("shop")
    shop.addHandler(handler)
    shop.setLevel(logging.DEBUG)
    yield handler
    shop.removeHandler(handler)
    shop.setLevel(logging.NOTSET)


# ---- whose they are


def test_every_record_says_whose_it_is(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.step
    async def ship(order: int) -> None:
        log.info("ships")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.info("begins")
        await ctx.step.run("charge", lambda: log.warning("charges"))
        await ctx.step.run("ship", ship, 7)

    log.info("before")
    run = testing.run(host, order)
    (begins,) = [record for record in said.records if record.getMessage() == "begins"]
    assert begins.run_id == run.record.run_id
    assert begins.trace_id == logs.current_trace_id() == ""
    charges = ("charges", "order", "charge", 1, "shop")
    assert said.origins[:3] == [("before", "", "", "", ""), ("begins", "order", "", 0, "shop"), charges]
    assert said.origins[3][1:] == ("order", "ship", 1, "shop")


def test_attempts_are_told_apart_on_the_loop_and_on_threads(said: Said) -> None:
    host = stepwire.Host("shop")
    tries = iter(range(10))

    def on_a_thread() -> None:
        log.info("on a thread")
        if next(tries) < 1:
            raise ValueError("once more")

    @host.flow
    def order(ctx: stepwire.ContextSync) -> None:
        log.info("the flow")
        ctx.step.run("try", on_a_thread, retries=2)

    assert testing.run(host, order).succeeded
    assert said.origins == [
        ("the flow", "order", "", 0, "shop"),
        ("on a thread", "order", "try", 1, "shop"),
        ("on a thread", "order", "try", 2, "shop"),
    ]


def test_code_of_a_branch_says_which(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        async def branch() -> None:
            log.info("in the branch")
            await ctx.step.run("a", lambda: log.info("in its step"))

        await ctx.group.parallel((branch, branch), name="both")

    testing.run(host, order)
    assert sorted(line[:4] for line in said.origins) == [
        ("in its step", "order", "both/[0]/a", 1),
        ("in its step", "order", "both/[1]/a", 1),
        ("in the branch", "order", "both/[0]", 0),
        ("in the branch", "order", "both/[1]", 0),
    ]


def test_what_code_gives_as_extra_wins_and_is_no_error(said: Said) -> None:
    """Names such as `step` and `host` are common: a service that uses them must not break because a host runs in it."""
    host = stepwire.Host("shop")

    @host.flow
    async def train(ctx: stepwire.Context) -> None:
        log.info("loss 0.1", extra={"step": 17, "host": "gpu-1"})

    testing.run(host, train)
    log.info("outside", extra={"run_id": "mine"})
    assert said.origins == [("loss 0.1", "train", 17, 0, "gpu-1"), ("outside", "", "", "", "")]
    assert said.records[1].run_id == "mine"


def test_other_libraries_ask_for_the_context() -> None:
    host = stepwire.Host("shop")
    seen: list[dict[str, Any]] = []

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", lambda: seen.append(logs.context()))

    run = testing.run(host, order)
    assert seen == [
        {
            "run_id": run.record.run_id,
            "step": "charge",
            "attempt": 1,
            "flow": "order",
            "host": "shop",
            "trace_id": "",
        }
    ]
    assert logs.context() == {} and not logs.repeating()


def test_threads_of_users_know_no_run_unless_they_get_the_context(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        async def step() -> None:
            await asyncio.to_thread(log.info, "with the context")
            thread = threading.Thread(target=log.info, args=("without",))
            thread.start()
            await asyncio.to_thread(thread.join)

        await ctx.step.run("a", step)

    testing.run(host, order)
    assert [line[:3] for line in said.origins] == [("with the context", "order", "a"), ("without", "", "")]


# ---- once


def lines_of(say: Callable[[str], None], sync: bool, **group: Any) -> tuple[stepwire.Host, Any]:
    """A flow that says a line wherever code of flows can stand, each once."""
    host = stepwire.Host("shop")

    def body(ctx: Any) -> Iterator[Any]:
        say("begin")
        yield ctx.step.run("a", int, 1)
        say("after a")
        yield ctx.step.run("b", int, 2)
        say("after b")

    def branch(ctx: Any, name: str) -> Iterator[Any]:
        say(f"{name} begins")
        yield ctx.step.run("first", int, 1)
        say(f"{name} goes on")
        yield ctx.step.run("second", int, 2)
        say(f"{name} ends")

    if sync:

        @host.flow
        def order(ctx: stepwire.ContextSync) -> None:
            def run_branch(name: str) -> None:
                for _ in branch(ctx, name):
                    pass

            for _ in body(ctx):
                pass
            ctx.group.parallel((lambda: run_branch("x"), lambda: run_branch("y")), **group)
            say("end")

        return host, order

    @host.flow(name="order")
    async def order_async(ctx: stepwire.Context) -> None:
        async def run_branch(name: str) -> None:
            for step in branch(ctx, name):
                await step

        for step in body(ctx):
            await step
        await ctx.group.parallel((lambda: run_branch("x"), lambda: run_branch("y")), **group)
        say("end")

    return host, order_async


ONCE = sorted(
    ["begin", "after a", "after b", "end"]
    + [f"{name} {what}" for name in ("x", "y") for what in ("begins", "goes on", "ends")]
)


@pytest.mark.parametrize("mode", [stepwire.ParallelMode.WAIT, stepwire.ParallelMode.RACE])
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
def test_each_line_is_said_once_though_every_release_is_reached_by_replay(
    said: Said, sync: bool, mode: stepwire.ParallelMode
) -> None:
    host, order = lines_of(log.info, sync, parallel_mode=mode)
    run = testing.run(host, order, replay=True)
    assert run.succeeded and run.body_entries > 2, "it was replayed"
    assert sorted(said.messages) == ONCE
    assert sorted(line.message for line in run.logs) == ONCE


RACE = stepwire.ParallelMode.RACE


def gated(gates: Gates, sync: bool, host_lives: list[int]) -> tuple[stepwire.Host, Any]:
    """A flow of two branches that wait before they say anything, in the first life of their host at "x 1" and "y 1"."""
    host = stepwire.Host("shop")

    def gate(name: str) -> str:
        return f"{name} {len(host_lives)}"

    async def first(name: str) -> None:
        await gates.wait(f"first of {name}")

    if sync:

        @host.flow
        def order(ctx: stepwire.ContextSync) -> None:
            def run_branch(name: str) -> None:
                gates.wait_sync(gate(name))
                log.info("%s begins", name)
                ctx.step.run("first", first, name)
                log.info("%s goes on", name)
                ctx.step.run("second", int, 2)

            ctx.group.parallel((lambda: run_branch("x"), lambda: run_branch("y")), parallel_mode=RACE)

        return host, order

    @host.flow(name="order")
    async def order_async(ctx: stepwire.Context) -> None:
        async def run_branch(name: str) -> None:
            await gates.wait(gate(name))
            log.info("%s begins", name)
            await ctx.step.run("first", first, name)
            log.info("%s goes on", name)
            await ctx.step.run("second", int, 2)

        await ctx.group.parallel((lambda: run_branch("x"), lambda: run_branch("y")), parallel_mode=RACE)

    return host, order_async


OF_BRANCHES = ["x begins", "x goes on", "y begins", "y goes on"]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
def test_what_a_branch_had_yet_to_say_when_its_host_died_is_said_though_others_were_ahead(
    said: Said, sync: bool
) -> None:
    """What is on record of them says nothing of this one, which was about to begin."""

    async def main() -> None:
        gates, host_lives = Gates(), [1]
        host, order = gated(gates, sync, host_lives)
        gates.open("x 1", "first of x", "first of y")
        async with testing.environment(host) as env:
            run_id = await env.start(order)
            await gates.until_reached("y 1")
            await until("x is at its end", lambda: recorded(env, run_id) == ["first", "second"])
            host_lives.append(2)
            await env.crash(host)
            gates.open("y 1", "x 2", "y 2")
            await env.finish(order, run_id)

    asyncio.run(main())
    assert sorted(said.messages) == OF_BRANCHES


def test_what_a_branch_said_is_not_said_again_because_another_one_is_ahead_of_it_now(said: Said) -> None:
    """In its former life y was faster than x. Now x decides something new while y has all of that yet to repeat."""

    async def main() -> None:
        gates, host_lives = Gates(), [1]
        host, order = gated(gates, False, host_lives)
        gates.open("y 1")
        async with testing.environment(host) as env:
            run_id = await env.start(order)
            await gates.until_reached("first of y")
            await until("y's plan is on record", lambda: any(isinstance(e, Planned) for e in env.journal(run_id)))
            host_lives.append(2)
            await env.crash(host)
            gates.open("x 2")
            await gates.until_passed("x 2")
            await turns()
            gates.open("y 2", "first of x", "first of y")
            await env.finish(order, run_id)

    asyncio.run(main())
    assert sorted(said.messages) == OF_BRANCHES


def test_repetitions_reach_no_handler_whatever_its_level_and_whenever_it_came(said: Said) -> None:
    host = stepwire.Host("shop")
    late = Said()
    late.setLevel(logging.NOTSET)
    filtered: list[int] = []
    log.addFilter(lambda record: filtered.append(record.levelno) or True)

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.critical("begins")
        if not late.records and logs.repeating() and late not in log.handlers:
            log.addHandler(late)
            log.critical("again")
        await ctx.step.run("a", int, 1)
        log.critical("ends")

    try:
        testing.run(host, order, replay=True)
    finally:
        log.filters.clear()
        log.removeHandler(late)
    assert said.messages == ["begins", "ends"] and late.messages == ["ends"]
    assert SILENT in filtered, "the flow did log it again"


def test_without_any_handler_python_prints_no_repetition(capsys: pytest.CaptureFixture[str]) -> None:
    """`logging.lastResort` asks for WARNING and above, which a repetition never is."""
    host = stepwire.Host("shop")
    lonely = logging.getLogger("lonely")
    lonely.propagate = False

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        lonely.error("begins")
        await ctx.step.run("a", int, 1)

    testing.run(host, order, replay=True)
    assert capsys.readouterr().err == "begins\n"


def test_code_that_is_thrown_away_with_its_body_says_nothing(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        try:
            await ctx.step.run("a", int, 1)
            await ctx.step.run("b", int, 1)
        finally:
            log.info("cleans up")

    assert testing.run(host, order, replay=True).body_entries > 1
    assert said.messages == ["cleans up"]


def test_steps_that_are_executed_again_say_it_again(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.info("before")

        async def charge() -> None:
            log.info("charges")
            if said.messages.count("charges") == 1:
                await asyncio.Event().wait()  # until its host dies

        await ctx.step.run("charge", charge)
        log.info("after")

    async def main() -> None:
        async with testing.environment(host) as env:
            run_id = await env.start(order)
            await until("the step runs", lambda: "charges" in said.messages)
            await until("its plan is on record", lambda: any(isinstance(e, Planned) for e in env.journal(run_id)))
            await env.crash(host)
            await env.finish(order, run_id)

    asyncio.run(main())
    assert said.messages == ["before", "charges", "charges", "after"]


def test_what_stepwire_says_is_never_taken_for_a_repetition(caplog: pytest.LogCaptureFixture) -> None:
    """It may happen in the context of the code that is repeated, as when that goes astray."""
    host = stepwire.Host("shop")
    lives: list[int] = []

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        lives.append(1)
        await ctx.step.run(f"step {len(lives)}", int, 1)

    testing.run(host, order, replay=True)
    (line,) = [
        record for record in caplog.records if record.name == "stepwire.host" and "cannot go on" in record.message
    ]
    assert (line.levelno, line.run_id) == (logging.WARNING, "")


def test_undos_speak_and_the_replay_that_reaches_them_does_not(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.info("begins")
        await ctx.step.run("charge", int, 1, compensate=lambda output: log.info("refunds"))
        log.info("fails")
        raise ValueError("no")

    assert not testing.run(host, order, replay=True).succeeded
    assert said.messages == ["begins", "fails", "refunds"]


# ---- to the engine


def test_lines_go_to_the_engine_from_the_level_on_and_with_their_traceback(said: Said) -> None:
    host = stepwire.Host("shop", ship_logs="warning")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        def charge() -> None:
            log.info("not this")
            try:
                raise ValueError("no card")
            except ValueError:
                log.exception("declined %d", 7)

        await ctx.step.run("charge", charge)
        logging.getLogger("stepwire.mine").error("nor Stepwire's own")

    (line,) = testing.run(host, order).logs
    assert (line.path, line.attempt, line.level, line.logger, line.host) == ("charge", 1, 40, "shop.checkout", "shop")
    assert line.message.startswith("declined 7\nTraceback") and line.message.endswith("ValueError: no card")
    assert said.messages == ["not this", "declined 7"]


def test_none_ships_nothing(said: Said) -> None:
    host = stepwire.Host("shop", ship_logs=None)

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.error("stays here")

    assert list(testing.run(host, order).logs) == []
    assert said.origins == [("stays here", "order", "", 0, "shop")]


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'LOUD'"):
        stepwire.Host("shop", ship_logs="LOUD")


def test_a_logger_that_does_not_propagate_gets_the_handler_by_hand() -> None:
    host = stepwire.Host("shop")
    quiet = logging.getLogger("quiet")
    quiet.propagate = False
    quiet.addHandler(host.log_handler)

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        quiet.warning("heard")

    assert [line.message for line in testing.run(host, order).logs] == ["heard"]


def test_hosts_of_one_process_ship_their_own_lines_only() -> None:
    first, second = stepwire.Host("first"), stepwire.Host("second")

    @first.flow
    async def one(ctx: stepwire.Context) -> None:
        log.warning("of one")

    @second.flow
    async def two(ctx: stepwire.Context) -> None:
        log.warning("of two")

    async def main() -> list[list[tuple[str, str]]]:
        async with testing.environment(first, second) as env:
            runs = [await env.execute(one), await env.execute(two)]
            return [[(line.message, line.host) for line in run.logs] for run in runs]

    assert asyncio.run(main()) == [[("of one", "first")], [("of two", "second")]]


def test_the_root_logger_has_the_handler_while_the_host_runs_and_once() -> None:
    host = stepwire.Host("shop")
    root = logging.getLogger()

    async def main() -> None:
        async with testing.environment(host) as env:
            assert root.handlers.count(host.log_handler) == 1
            await env.crash(host)
            assert root.handlers.count(host.log_handler) == 1

    @host.flow
    async def order(ctx: stepwire.Context) -> None: ...

    asyncio.run(main())
    assert host.log_handler not in root.handlers


def test_a_service_that_set_up_no_logging_still_sees_its_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler on the root logger would keep Python from printing them."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    host = stepwire.Host("shop", ship_logs="ERROR")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.warning("look at this")
        log.info("not at that")

    assert list(testing.run(host, order).logs) == []
    assert "look at this" in capsys.readouterr().err


def test_a_line_that_cannot_be_formatted_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> int:
        log.warning("%d", "no number")
        return 1

    run = testing.run(host, order)
    assert run.output == 1 and list(run.logs) == []


def test_a_long_message_is_cut_in_the_middle() -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        log.warning("begin %s end", "x" * 100_000)

    (line,) = testing.run(host, order).logs
    assert len(line.message.encode()) <= LOG_MESSAGE_BYTES_MAX
    assert line.message.startswith("begin ") and line.message.endswith(" end") and "bytes cut]" in line.message
