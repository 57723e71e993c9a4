"""`stepwire engine` as a process: flags over environment over file, ready, and the ways to end."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest

from tests.cli.commands import stepwire
from tests.cli.terminals import Terminal

FREE_PORTS = ("--grpc-port", "0", "--http-port", "0")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(tmp_path: Path, end: signal.Signals) -> None:
    with Terminal("engine", "--db", "runs.db", *FREE_PORTS, "--log-format", "text", cwd=tmp_path) as engine:
        ready = engine.until("stepwire engine ready").split()
        address = ready[ready.index("http") + 1]
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=5) as answer:
            assert answer.status == 200
        engine.process.send_signal(end)
        assert engine.process.wait(10) == 0
    assert (tmp_path / "runs.db").exists()


def test_a_second_engine_on_the_database_is_refused(tmp_path: Path) -> None:
    with Terminal("engine", "--db", "runs.db", *FREE_PORTS, "--log-format", "text", cwd=tmp_path) as engine:
        engine.until("stepwire engine ready")
        second = stepwire("engine", "--db", "runs.db", *FREE_PORTS, cwd=tmp_path)
    assert second.returncode != 0 and second.stdout == ""
    assert second.stderr.startswith("error: ")


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "stepwire.toml").write_text('log_format = "text"\ndb = "file.db"\n', encoding="utf-8")
    done = stepwire("engine", *FREE_PORTS, cwd=tmp_path, env={"STEPWIRE_DB": "/no/such/folder/env.db"})
    assert done.returncode != 0 and "/no/such/folder" in done.stderr
    with Terminal("engine", "--db", "flag.db", *FREE_PORTS, cwd=tmp_path) as engine:
        assert "flag.db" in engine.until("stepwire engine ready")
        assert engine.interrupt() == 0


@pytest.mark.parametrize(
    ("env", "file", "said"),
    [
        ({"STEPWIRE_DBB": "x"}, "", "unknown environment variable: STEPWIRE_DBB"),
        ({"STEPWIRE_GRPC__PORT": "99999"}, "", "STEPWIRE_GRPC__PORT is '99999'"),
        ({}, "dbb = 1\n", "unknown key"),
        ({}, "db = \n", "cannot read"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path: Path, env: dict[str, str], file: str, said: str) -> None:
    (tmp_path / "stepwire.toml").write_text(file, encoding="utf-8")
    done = stepwire("engine", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:", "why:  ", "next: "]
    assert said in done.stderr


def test_names_of_the_command_line_are_no_mistakes(tmp_path: Path) -> None:
    env = {"STEPWIRE_COLOR": "never", "STEPWIRE_OUTPUT": "json", "STEPWIRE_SLOTS": "3", "STEPWIRE_DB": "/no/such/x.db"}
    assert "/no/such" in stepwire("engine", *FREE_PORTS, cwd=tmp_path, env=env).stderr


def test_an_open_address_needs_insecure(tmp_path: Path) -> None:
    done = stepwire("engine", "--host", "0.0.0.0", *FREE_PORTS, cwd=tmp_path)
    assert done.returncode != 0 and done.stderr.startswith("error: ")
    with Terminal(
        "engine", "--host", "0.0.0.0", "--insecure", *FREE_PORTS, "--log-format", "text", cwd=tmp_path
    ) as engine:
        engine.until("stepwire engine ready")
        assert engine.interrupt() == 0
