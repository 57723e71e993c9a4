"""`stepwire run`, `send` and `runs cancel` against a RunService whose engine is a table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Event, StepKind
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import AttemptView, StepStateView, StepView
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import RunRecord
from tests.cli.commands import stepwire
from tests.cli.terminals import on_terminal
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run, open_run


@pytest.fixture(scope="module")
def engine() -> Iterator[LoopbackEngine]:
    engine = LoopbackEngine()
    yield engine
    engine.close()


@pytest.fixture
def port(engine: LoopbackEngine) -> Iterator[TablePort]:
    port = TablePort()
    engine.serve(port)
    yield port
    engine.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def run(engine: LoopbackEngine, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stepwire(*arguments, "--engine", engine.address, cwd=directory)


def three_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = done.stderr.splitlines()
    assert [line[:7] for line in lines] == ["error: ", "why:   ", "next:  "], done.stderr
    return [line[7:] for line in lines]


# ---- run


def test_run_follows_a_run_that_restarted_itself(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    port.keys["k"] = "r1"
    port.put(ended_run("r1", b"null", successor_run_id="r2"), ended_run("r2", b'"last"'))
    done = run(engine, directory, "run", "orders", "--id", "k")
    assert (done.returncode, done.stdout) == (0, '"last"\n'), done.stderr
    assert "run r1  orders  SUCCEEDED" in done.stderr and "goes on as run r2" in done.stderr


def test_a_timeout_names_the_run_that_is_waited_for_now(
    engine: LoopbackEngine, port: TablePort, directory: Path
) -> None:
    port.keys["k"] = "r1"
    port.put(ended_run("r1", b"null", successor_run_id="r2"), open_run("r2"))
    done = run(engine, directory, "run", "orders", "--id", "k", "--timeout", "1s")
    assert (done.returncode, done.stdout) == (6, "")
    assert "error: run r2 has not ended within 1 s" in done.stderr


def test_what_was_not_undone_is_said_before_the_error(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    failure = Failure(ErrorCode.USER_ERROR, "ValueError", "no stock")
    attempt = AttemptView(1, 0.1, 1_767_225_601_000, failure, "shop")
    undo = StepView(
        path="reserve#undo", kind=StepKind.RUN, name="", state=StepStateView.FAILED, planned_at_ms=1_767_225_600_500,
        ended_at_ms=1_767_225_601_000, attempts=(attempt,), undoes="reserve",
    )  # fmt: skip
    port.keys["k"] = "r1"
    port.put(ended_run("r1", None, state=RunState.FAILED, failure=failure, steps=(undo,)))
    done = run(engine, directory, "run", "orders", "--id", "k")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-5:-3] == [
        "NOT UNDONE: the effects of these steps are still there",
        "  reserve  ValueError: no stock",
    ]


# ---- send


def test_send_prints_the_id_alone(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    done = run(
        engine, directory, "send", "order/paid", "-d", '{"n": 1}', "--id", "e1", "--at", "2026-01-01T01:00:00.250+01:00"
    )
    assert (done.returncode, done.stdout) == (0, "e1\n"), done.stderr
    assert port.asked == [("send", Event("order/paid", Payload(b'{"n":1}'), "e1", 1_767_225_600_250))]


def test_send_takes_data_from_a_file_and_needs_none(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    (directory / "data.json").write_text("[1, 2]", encoding="utf-8")
    assert run(engine, directory, "send", "a", "--data", "@data.json", "--id", "e1").returncode == 0
    assert run(engine, directory, "send", "a", "--id", "e2").returncode == 0
    assert [question[1].data for question in port.asked] == [Payload(b"[1,2]"), NULL]


@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_sent_events_as_documents(engine: LoopbackEngine, port: TablePort, directory: Path, output: str) -> None:
    done = run(engine, directory, "send", "order/paid", "--id", "e1", "-o", output)
    assert json.loads(done.stdout) == {"schema": "stepwire.event/v1", "event_id": "e1", "name": "order/paid"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "--data", "{"), "the data is not JSON"),
        (("a", "--data", "@none.json"), "cannot read the data @none.json"),
        (("a", "--at", "tomorrow"), "'tomorrow' is no time"),
        (("a", "--at", "2026-01-01T09:00"), "has no time zone"),
        (("n" * 257,), "this cannot be an event"),
        (("a", "--id", "k" * 257), "this cannot be an event"),
    ],
)
def test_what_is_no_event_is_a_usage_error(
    engine: LoopbackEngine, port: TablePort, directory: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(engine, directory, "send", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in three_lines(done)[0]
    assert port.asked == []


# ---- cancel


@pytest.mark.parametrize(("flags", "undo"), [((), None), (("--undo",), True), (("--no-undo",), False)])
def test_cancel_one(
    engine: LoopbackEngine, port: TablePort, directory: Path, flags: tuple[str, ...], undo: bool | None
) -> None:
    done = run(engine, directory, "runs", "cancel", "r1", *flags)
    assert (done.returncode, done.stdout) == (0, "r1\n"), done.stderr
    assert f"stepwire runs show r1 --engine {engine.address}" in done.stderr
    assert port.asked == [("cancel", "r1", undo)]


@pytest.mark.parametrize(
    ("code", "exit_code"), [(ErrorCode.RUN_NOT_FOUND, 3), (ErrorCode.WRONG_STATE, 5), (ErrorCode.DRAINING, 4)]
)
def test_refusals_have_their_exit_codes(
    engine: LoopbackEngine, port: TablePort, directory: Path, code: ErrorCode, exit_code: int
) -> None:
    port.refusal = CallRefused(code, "what the engine says")
    done = run(engine, directory, "runs", "cancel", "r1")
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert three_lines(done)[0] == "what the engine says"


def with_runs(port: TablePort, count: int) -> None:
    port.records = [RunRecord(n, f"r{n}", "orders", RunState.WAITING, 1000) for n in range(1, count + 1)]


def test_cancel_all_of_a_flow(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    with_runs(port, 3)
    port.over = {"r2"}
    done = run(engine, directory, "runs", "cancel", "--all", "--flow", "orders", "--yes", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": "stepwire.cancelled/v1", "run_ids": ["r3", "r1"]}
    assert {question[2] for question in port.asked if question[0] == "cancel"} == {None}


def test_cancel_all_asks_first(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    with_runs(port, 2)
    asked = run(engine, directory, "runs", "cancel", "--all", "--flow", "orders")
    assert (asked.returncode, asked.stdout) == (2, "")
    what, _, following = three_lines(asked)
    assert what == "2 open runs of orders would be cancelled"
    assert following == f"stepwire runs cancel --all --flow orders --yes --engine {engine.address}"
    assert [question[0] for question in port.asked] == ["list"]


@pytest.mark.parametrize(("typed", "cancelled"), [("y\n", "r2\nr1\n"), ("n\n", ""), ("\n", "")])
def test_on_a_terminal_somebody_answers(
    engine: LoopbackEngine, port: TablePort, directory: Path, typed: str, cancelled: str
) -> None:
    with_runs(port, 2)
    arguments = ["runs", "cancel", "--all", "--flow", "orders", "--engine", engine.address]
    code, output, shown = on_terminal(arguments, directory, typed)
    assert (code, output) == (0, cancelled)
    assert "cancel 2 open runs of orders? [y/N]" in shown


def test_cancel_all_without_open_runs_does_nothing(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    done = run(engine, directory, "runs", "cancel", "--all", "--flow", "orders")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no runs of orders" in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("r1", "--all", "--flow", "f"), ("--all",), ("r1", "--flow", "f"), ("--flow", "f")]
)
def test_one_run_or_all_of_a_flow(
    engine: LoopbackEngine, port: TablePort, directory: Path, arguments: tuple[str, ...]
) -> None:
    done = run(engine, directory, "runs", "cancel", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    three_lines(done)
    assert port.asked == []


# ---- runs why


def test_why_tells_people_in_sentences_and_scripts_in_json(
    engine: LoopbackEngine, port: TablePort, directory: Path
) -> None:
    port.put(open_run())
    done = run(engine, directory, "runs", "why", "r1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run r1 of flow orders is RUNNING for 3.00s: ") and "\nnext: " in done.stdout
    found = json.loads(run(engine, directory, "runs", "why", "r1", "-o", "json").stdout)
    assert (found["schema"], found["run"]["run_id"], found["open_steps"]) == ("stepwire.why/v1", "r1", [])


def test_why_of_a_run_that_does_not_exist(engine: LoopbackEngine, port: TablePort, directory: Path) -> None:
    done = run(engine, directory, "runs", "why", "r1")
    assert done.returncode == 3 and three_lines(done)[0].startswith("there is no run")
