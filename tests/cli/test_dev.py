"""`stepwire dev` and the commands against it, with real processes: engine, host, reload, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import environment, stepwire, stepwire_command
from tests.cli.terminals import Terminal, free_port, on_terminal

APP = """
import os, threading
import stepwire

host = stepwire.Host("orders")
VERSION = 1

@host.step
def charge(n: int) -> int:
    return n * 2

@host.flow
async def checkout(ctx: stepwire.Context, n: int) -> dict:
    reserved = await ctx.step.run("reserve", lambda: n + 1)
    paid, label = await ctx.group.parallel((
        lambda: ctx.step.run("charge", charge, reserved),
        lambda: ctx.step.run("label", lambda: "\\x1b[31mred\\x9b"),
    ))
    return {"paid": paid, "label": label}

@host.flow
async def version(ctx: stepwire.Context, n: None) -> int:
    return VERSION

@host.flow
async def fails(ctx: stepwire.Context, n: int) -> int:
    raise ValueError(f"no stock of {n}")

@host.flow
async def hangs(ctx: stepwire.Context, path: str) -> None:
    def wait() -> None:
        os.mkfifo(path) if not os.path.exists(path) else None
        open(path).close()          # until somebody opens it for writing
    await ctx.step.run("wait", wait)

def give_back(taken: str) -> None:
    pass

def break_down(taken: str) -> None:
    raise stepwire.NonRetryable("the shop is closed")

@host.flow
async def waits(ctx: stepwire.Context, order: int) -> int:
    await ctx.step.run("take", lambda: "taken", compensate=give_back)
    await ctx.step.run("pay", lambda: "paid", compensate=break_down)
    event = await ctx.step.wait_event("paid", "order/paid", match={"data.order": order}, timeout="1h")
    return event.data["amount"]

@host.flow
async def counts_down(ctx: stepwire.Context, n: int) -> str:
    if n:
        ctx.restart_with(n - 1)
    return "zero"
"""

WAITS_AT_A_GATE = """
@host.flow
async def by_version(ctx: stepwire.Context, path: str) -> list[int]:
    def wait() -> int:
        os.mkfifo(path) if not os.path.exists(path) else None
        print("at the gate")
        open(path).close()          # until somebody opens it for writing
        return VERSION
    return [await ctx.step.run("wait", wait), await ctx.step.run("after", lambda: VERSION)]
"""


def at_version(text: str, version: int) -> str:
    """The app at another version, and of another size: a file of the same second and size is not compiled again."""
    return text.replace("VERSION = 1", f"VERSION = {' + '.join('1' * version)}")


@dataclass
class Dev:
    terminal: Terminal
    directory: Path
    port: int

    def stepwire(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return stepwire(*arguments, cwd=self.directory, env=self.variables)

    @property
    def variables(self) -> dict[str, str]:
        return {"STEPWIRE_ENGINE": f"127.0.0.1:{self.port}"}


def started(directory: Path, *options: str) -> tuple[Terminal, int]:
    port = free_port()
    ports = ["--port", str(port), "--http-port", str(free_port())]
    return Terminal("dev", *ports, *options, cwd=directory), port


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    (directory / "app.py").write_text(APP, encoding="utf-8")
    terminal, port = started(directory, "--ephemeral", "app.py")
    with terminal:
        terminal.until(r"app\.py \|.*connected to engine")
        yield Dev(terminal, directory, port)


# ---- run


def test_output_on_stdout_and_lines_on_stderr(dev: Dev) -> None:
    done = dev.stepwire("run", "checkout", "-i", "20")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"paid": 42, "label": "\x1b[31mred\x9b"}
    assert done.stdout.replace("\n", "").isprintable()
    paths = [line.split("  ")[1:3] for line in done.stderr.splitlines()]
    for path in ("reserve", "parallel/[0]/charge", "parallel/[1]/label"):
        assert [path, "SUCCEEDED"] in paths, done.stderr


def test_json_is_one_document(dev: Dev) -> None:
    done = dev.stepwire("run", "checkout", "-i", "1", "-o", "json", "--id", "order-17")
    document = json.loads(done.stdout)
    assert (document["schema"], document["state"], document["id"]) == ("stepwire.run/v1", "SUCCEEDED", "order-17")
    assert (document["input"], document["output"]["paid"]) == (1, 4)
    assert {step["path"]: step["kind"] for step in document["steps"]} == {
        "reserve": "run", "parallel/[0]/charge": "task", "parallel/[1]/label": "run",
    }  # fmt: skip
    (group,) = document["groups"]
    assert (group["path"], group["mode"], group["branches"], group["verdict"]) == ("parallel", "WAIT", 2, "OK")
    assert group["outcomes"] == ["OK", "OK"]
    assert document["stats"]["body_entries"] == 1
    again = dev.stepwire("run", "checkout", "-i", "1", "-o", "json", "--id", "order-17")
    assert json.loads(again.stdout) == document and "nothing was started" in again.stderr
    other = dev.stepwire("run", "checkout", "-i", "2", "--id", "order-17")
    assert other.returncode == 5 and other.stdout == ""


def test_jsonl_ends_with_the_run(dev: Dev) -> None:
    done = dev.stepwire("run", "checkout", "-i", "1", "-o", "jsonl")
    *steps, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert {step["schema"] for step in steps} == {"stepwire.step/v1"}
    assert (last["schema"], last["state"]) == ("stepwire.run/v1", "SUCCEEDED")


def test_input_from_file_and_stdin(dev: Dev) -> None:
    (dev.directory / "input.json").write_text("20", encoding="utf-8")
    done = dev.stepwire("run", "checkout", "-i", "@input.json", "--detach")
    shown = json.loads(dev.stepwire("runs", "show", done.stdout.strip(), "-o", "json").stdout)
    assert shown["input"] == 20
    command = [*stepwire_command(), "run", "checkout", "-i", "-", "--detach"]
    piped = subprocess.run(
        command, input="21", capture_output=True, text=True, cwd=dev.directory, env=environment(**dev.variables)
    )
    shown = json.loads(dev.stepwire("runs", "show", piped.stdout.strip(), "-o", "json").stdout)
    assert shown["input"] == 21


def test_a_failed_run_is_exit_1_with_its_traceback(dev: Dev) -> None:
    done = dev.stepwire("run", "fails", "-i", "3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "raise ValueError" in done.stderr
    assert done.stderr.splitlines()[-2:][0] == "why:   ValueError: no stock of 3"
    assert json.loads(dev.stepwire("run", "fails", "-i", "3", "-o", "json").stdout)["failure"]["type"] == "ValueError"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nope"), 3, "no host has registered flow 'nope'"),
        (("run", "checkout", "-i", "{"), 2, "the input is not JSON"),
        (("run", "checkout", "-i", "NaN"), 2, "NaN is no JSON value"),
        (("run", "checkout", "-i", "@missing.json"), 2, "cannot read the input"),
        (("run", "checkout", "--timeout", "soon"), 2, "no duration"),
        (("runs", "show", "01nope"), 3, "there is no run 01nope"),
        (("runs", "resume", "01nope"), 3, "there is no run 01nope"),
        (("runs", "list", "--state", "SLEEPY"), 2, "'SLEEPY' is not one of"),
        (("runs", "list", "--engine", "127.0.0.1:1"), 4, "127.0.0.1:1"),
        (("rnus",), 2, "Did you mean 'runs'?"),
        (("host", "nothing.py"), 2, "there is no file nothing.py"),
        (("engine", "--grpc-port", "many"), 2, "--grpc-port is 'many'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes(dev: Dev, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = dev.stepwire(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:", "why:  ", "next: "]
    assert said in done.stderr


def test_timeout_and_ctrl_c_leave_the_run_alone(dev: Dev) -> None:
    fifo = dev.directory / "gate"
    timed_out = dev.stepwire("run", "hangs", "-i", json.dumps(str(fifo)), "--id", "gate", "--timeout", "200ms")
    assert timed_out.returncode == 6 and "it goes on" in timed_out.stderr
    with Terminal(
        "run", "hangs", "-i", json.dumps(str(fifo)), "--id", "gate", "--engine", f"127.0.0.1:{dev.port}",
        cwd=dev.directory,
    ) as watching:  # fmt: skip
        watching.until("wait  RUNNING")
        assert watching.interrupt() == 130
        watching.until("detached: the run goes on")
        shown = watching.until("next: ").removeprefix("next:  stepwire ").split()
        watching.until("stop:  stepwire runs cancel ")
    assert json.loads(dev.stepwire(*shown, "-o", "json").stdout)["state"] == "RUNNING"
    fifo.open("w").close()
    assert dev.stepwire("run", "hangs", "-i", json.dumps(str(fifo)), "--id", "gate").returncode == 0


def test_a_terminal_gets_the_live_tree(dev: Dev) -> None:
    code, output, shown = on_terminal(["run", "checkout", "-i", "20"], dev.directory, **dev.variables)
    assert code == 0 and json.loads(output)["paid"] == 42
    assert "\x1b[32m✔" in shown and "├─ " in shown and "[0] charge" in shown
    _, _, plain = on_terminal(["run", "checkout", "-i", "20"], dev.directory, **dev.variables, NO_COLOR="1")
    assert "✔" in plain and "\x1b[32m" not in plain


# ---- runs


def test_list_and_show(dev: Dev) -> None:
    ids = [dev.stepwire("run", "version", "--detach").stdout.strip() for _ in range(3)]
    listed = json.loads(dev.stepwire("runs", "list", "--flow", "version", "--limit", "2", "-o", "json").stdout)
    assert [run["run_id"] for run in listed["runs"]] == ids[:0:-1] and listed["complete"] is False
    lines = dev.stepwire("runs", "list", "--flow", "version", "-o", "jsonl").stdout.splitlines()
    assert {json.loads(line)["run_id"] for line in lines} >= set(ids)
    table = dev.stepwire("runs", "list", "--flow", "version", "--state", "succeeded").stdout.splitlines()
    assert table[0].split() == ["RUN", "FLOW", "STATE", "CREATED", "DURATION", "REMARK"]
    assert all(line.split()[1:3] == ["version", "SUCCEEDED"] for line in table[1:])
    nothing = dev.stepwire("runs", "list", "--flow", "none")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "no runs that fit\n")


def test_show_has_the_tree_and_the_stats(dev: Dev) -> None:
    run_id = json.loads(dev.stepwire("run", "checkout", "-i", "1", "-o", "json").stdout)["run_id"]
    shown = dev.stepwire("runs", "show", run_id).stdout
    assert shown.startswith(f"✔ run {run_id}  checkout  SUCCEEDED")
    assert "├─ ✔ reserve" in shown and "on orders" in shown
    assert "stats    advances 3" in shown and "body_entries 1" in shown
    assert shown.replace("\n", "").isprintable()


def test_only_a_paused_run_can_be_resumed(dev: Dev) -> None:
    run_id = json.loads(dev.stepwire("run", "version", "-o", "json").stdout)["run_id"]
    done = dev.stepwire("runs", "resume", run_id)
    assert done.returncode == 5 and "not PAUSED" in done.stderr


def test_an_event_lets_a_run_go_on(dev: Dev) -> None:
    run_id = dev.stepwire("run", "waits", "-i", "17", "--id", "waits-17", "--detach").stdout.strip()
    with Terminal(
        "run", "waits", "-i", "17", "--id", "waits-17", "--engine", f"127.0.0.1:{dev.port}", cwd=dev.directory
    ) as watching:
        watching.until("paid  PENDING")
        shown = dev.stepwire("runs", "show", run_id).stdout
        assert "event: waits for order/paid until " in shown
        other = dev.stepwire("send", "order/paid", "--data", '{"order": 16, "amount": 1}')
        sent = dev.stepwire("send", "order/paid", "--data", '{"order": 17, "amount": 42}', "--id", "paid-17")
        assert (other.returncode, sent.returncode, sent.stdout) == (0, 0, "paid-17\n")
        watching.until("42")


def test_a_cancelled_run_shows_what_was_undone_and_what_was_not(dev: Dev) -> None:
    run_id = dev.stepwire("run", "waits", "-i", "18", "--id", "waits-18", "--detach").stdout.strip()
    with Terminal(
        "run", "waits", "-i", "18", "--id", "waits-18", "--engine", f"127.0.0.1:{dev.port}", cwd=dev.directory
    ) as watching:
        watching.until("paid  PENDING")
        assert dev.stepwire("runs", "cancel", run_id, "--undo").stdout == f"{run_id}\n"
        watching.until(f"error: run {run_id} is CANCELLED")
        assert watching.process.wait(10) == 1
    shown = dev.stepwire("runs", "show", run_id).stdout
    assert shown.startswith(f"⊘ run {run_id}  waits  CANCELLED") and "1 NOT UNDONE" in shown
    assert "│  └─ ✔ undo" in shown and "│  └─ ✘ undo" in shown
    assert shown.endswith("  pay  NonRetryable: the shop is closed\n")
    again = dev.stepwire("runs", "cancel", run_id)
    assert (again.returncode, again.stdout) == (0, f"{run_id}\n"), "it is what was asked for"


def test_all_runs_of_a_flow_are_cancelled(dev: Dev) -> None:
    ids = [dev.stepwire("run", "waits", "-i", "19", "--detach").stdout.strip() for _ in range(2)]
    done = dev.stepwire("runs", "cancel", "--all", "--flow", "waits", "--no-undo", "--yes")
    assert done.stdout.split() == ids[::-1]
    for run_id in ids:
        assert json.loads(dev.stepwire("runs", "show", run_id, "-o", "json").stdout)["state"] == "CANCELLED"


def test_a_run_that_restarts_itself_is_followed_to_its_end(dev: Dev) -> None:
    done = dev.stepwire("run", "counts_down", "-i", "3")
    assert (done.returncode, done.stdout) == (0, '"zero"\n'), done.stderr
    assert done.stderr.count("goes on as run ") == 3


def test_a_reader_that_leaves_is_no_crash(dev: Dev) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*stepwire_command(), "runs", "list", "--engine", f"127.0.0.1:{dev.port}", "-o", "json"],
        stdout=write, stderr=subprocess.PIPE, text=True, env=environment(), cwd=dev.directory,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# ---- dev


def test_reload_then_a_mistake_then_its_correction(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP, encoding="utf-8")
    terminal, port = started(tmp_path, "app.py")
    engine = {"STEPWIRE_ENGINE": f"127.0.0.1:{port}"}
    with terminal:
        terminal.until("connected to engine")
        assert stepwire("run", "version", cwd=tmp_path, env=engine).stdout == "1\n"
        app.write_text(at_version(APP, 2), encoding="utf-8")
        terminal.until(r"app\.py changed")
        terminal.until("connected to engine")
        assert stepwire("run", "version", cwd=tmp_path, env=engine).stdout == "2\n"
        app.write_text("import nonesuch\n", encoding="utf-8")
        terminal.until("ended with exit code 2; it starts again when a file changes")
        app.write_text(at_version(APP, 3), encoding="utf-8")
        terminal.until("connected to engine")
        assert stepwire("run", "version", cwd=tmp_path, env=engine).stdout == "3\n"
        assert terminal.interrupt() == 0
    assert (tmp_path / ".stepwire" / "dev.db").exists()
    assert (tmp_path / ".stepwire" / ".gitignore").read_text() == "*\n"


@pytest.mark.timeout(60)
def test_reload_lets_the_step_in_progress_end_and_the_new_code_goes_on(tmp_path: Path) -> None:
    app, gate = tmp_path / "app.py", tmp_path / "gate"
    text = APP + WAITS_AT_A_GATE
    app.write_text(text, encoding="utf-8")
    terminal, port = started(tmp_path, "--drain-timeout", "15s", "app.py")
    with terminal:
        terminal.until("connected to engine")
        engine = {"STEPWIRE_ENGINE": f"127.0.0.1:{port}"}
        arguments = ("run", "by_version", "-i", json.dumps(str(gate)), "--id", "one")
        stepwire(*arguments, "--detach", cwd=tmp_path, env=engine)
        terminal.until("at the gate")
        app.write_text(at_version(text, 2), encoding="utf-8")
        terminal.until("drains for at most 15 s")
        gate.open("w").close()
        terminal.until("connected to engine")
        assert json.loads(stepwire(*arguments, cwd=tmp_path, env=engine).stdout) == [1, 2]
        assert sum("at the gate" in line for line in terminal.lines) == 1
        assert terminal.interrupt() == 0


@pytest.mark.timeout(60)
def test_ctrl_c_hands_back_what_does_not_stop_and_the_next_dev_goes_on(tmp_path: Path) -> None:
    app, gate = tmp_path / "app.py", tmp_path / "gate"
    app.write_text(APP + WAITS_AT_A_GATE, encoding="utf-8")
    terminal, port = started(tmp_path, "--drain-timeout", "500ms", "app.py")
    arguments = ("run", "by_version", "-i", json.dumps(str(gate)), "--id", "one")
    with terminal:
        terminal.until("connected to engine")
        engine = {"STEPWIRE_ENGINE": f"127.0.0.1:{port}"}
        stepwire(*arguments, "--detach", cwd=tmp_path, env=engine)
        terminal.until("at the gate")
        assert terminal.interrupt() == 0
        assert not [line for line in terminal.lines if "was killed" in line or "Traceback" in line]
    terminal, port = started(tmp_path, "--drain-timeout", "500ms", "app.py")
    with terminal:
        terminal.until("at the gate")
        gate.open("w").close()
        engine = {"STEPWIRE_ENGINE": f"127.0.0.1:{port}"}
        assert json.loads(stepwire(*arguments, cwd=tmp_path, env=engine).stdout) == [1, 1]
        assert terminal.interrupt() == 0


def test_runs_survive_dev(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    run_ids = []
    for _ in range(2):
        terminal, port = started(tmp_path, "--no-reload", "app.py")
        with terminal:
            terminal.until("connected to engine")
            engine = {"STEPWIRE_ENGINE": f"127.0.0.1:{port}"}
            run_ids.append(stepwire("run", "version", "--detach", cwd=tmp_path, env=engine).stdout.strip())
            listed = stepwire("runs", "list", "-o", "jsonl", cwd=tmp_path, env=engine).stdout.splitlines()
            assert [json.loads(line)["run_id"] for line in listed] == run_ids[::-1]
            assert terminal.interrupt() == 0


def test_taken_ports_are_said_and_the_next_is_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Terminal(
            "dev", "--ephemeral", "--port", str(port), "--http-port", str(free_port()), cwd=tmp_path
        ) as terminal:
            terminal.until(f"port {port} is taken, using ")
            terminal.until("stepwire dev    engine 127.0.0.1:")
            terminal.until("in other terminals: export STEPWIRE_ENGINE=")
            assert terminal.interrupt() == 0


def test_the_end_of_the_engine_ends_dev_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / ".stepwire").mkdir()
    (tmp_path / ".stepwire" / "dev.db").write_text(
        "this is no database, and long enough to be told from an empty one\n" * 99
    )
    terminal, _ = started(tmp_path)
    with terminal:
        said = terminal.until("the engine ended with exit code")
        code = int(said.rpartition(" ")[2])
        assert code != 0 and terminal.process.wait(10) == code


def test_without_reload_the_end_of_all_hosts_ends_dev(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    terminal, _ = started(tmp_path, "--ephemeral", "--no-reload", "broken.py")
    with terminal:
        terminal.until(r"broken.py ended with exit code 2$")
        assert terminal.process.wait(10) == 2


def test_two_hosts_and_none_is_left_behind(tmp_path: Path) -> None:
    for name in ("one", "two"):
        text = APP.replace('"orders"', f'"{name}"') + '\nprint("pid", os.getpid())\n'
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    terminal, _ = started(tmp_path, "--ephemeral", "one.py", "two.py:host")
    with terminal:
        terminal.until("connected to engine")
        terminal.until("connected to engine")
        pids = [int(line.rpartition(" ")[2]) for line in terminal.lines if "| pid " in line]
        assert len(pids) == 2
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(10) == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
