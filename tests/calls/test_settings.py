"""How the settings of calls reach the built-in host: an engine, `stepwire dev`, and the log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from stepwire_engine.app import Engine
from stepwire_engine.calls.destinations import LOCAL_NETWORKS, Destinations
from stepwire_engine.cli.dev import _engine_command
from stepwire_engine.config import Config, load
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.process import set_up_logging
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE
from tests.calls.desk import play


def test_by_default_nothing_private_is_reached() -> None:
    config = Config()
    assert (config.call_allow, config.call_slots, config.call_response_bytes_max) == ((), 256, 1024 * 1024)
    assert config.call_timeout_max == 43_200
    assert config.call_response_bytes_max <= CoreConfig().payload_bytes_max


@pytest.mark.parametrize("slots", [0, 1, 256])
def test_an_engine_serves_calls_from_its_start_to_its_end(slots: int) -> None:
    async def scenario() -> None:
        failures: list[Exception] = []
        config = Config(db=":memory:", grpc_port=0, http_port=0, call_slots=slots)
        engine = Engine(config, on_failed=failures.append)
        await engine.start()
        await engine.driver.settled()
        assert [s.slots for s in engine.driver.core.sessions.values()] == ([slots] if slots else [])
        await engine.stop()
        assert ENGINE_INSTANCE not in engine.driver.core.sessions
        assert failures == []
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    play(scenario)


def flag(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_dev_reaches_this_machine_and_private_networks_and_what_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STEPWIRE_COLOR", "STEPWIRE_OUTPUT"):
        monkeypatch.setenv(name, "auto")
    allow = load({"call_allow": flag(_engine_command(":memory:", 1, 2, 5.0), "--call-allow")}).call_allow
    assert allow == LOCAL_NETWORKS
    (tmp_path / "stepwire.toml").write_text('[calls]\nallow = ["100.64.0.0/10", "orders.internal"]\n')
    allow = load({"call_allow": flag(_engine_command(":memory:", 1, 2, 5.0), "--call-allow")}).call_allow
    assert allow == (*LOCAL_NETWORKS, "100.64.0.0/10", "orders.internal")
    assert Destinations(allow).refusal("metadata", "169.254.169.254")


def test_headers_of_calls_are_not_logged_at_level_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    root, httpcore = logging.getLogger(), logging.getLogger("httpcore")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level, httpcore.level
    try:
        set_up_logging(Config(log="debug"))
        assert logging.getLogger("stepwire.engine").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("httpcore.http11").isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before[0])
        httpcore.setLevel(before[1])
