"""Configuration and clocks: precedence, bounds, suggestions; identifiers that sort (DESIGN 5)."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepwire_engine.clock import RUN_ID_LENGTH, Clock, SystemClock, VirtualClock
from stepwire_engine.config import SETTINGS, Config, ConfigError, Setting, Unit, load, network_of, secrets_of
from stepwire_engine.core.config import CoreConfig


def write(directory: Path, text: str, name: str = "stepwire.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_defaults() -> None:
    config = load()
    assert config == Config()
    assert (config.db, config.grpc_host, config.grpc_port, config.http_port) == ("stepwire.db", "127.0.0.1", 7380, 8380)
    assert (config.heartbeat_interval, config.reconnect_grace, config.silence_timeout) == (4, 3, 11.5)
    assert (config.adoption_grace, config.drain_timeout, config.attempts_lost_max) == (10, 30, 20)
    assert config.core == CoreConfig()


def test_flags_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    write(tmp_path, 'db = "file.db"\n[grpc]\nport = 1\n[http]\nport = 1\n[limits]\npayload_bytes_max = "8MiB"\n')
    env = {"STEPWIRE_GRPC__PORT": "2", "STEPWIRE_HTTP__PORT": "2", "HOME": "/"}
    config = load({"http_port": 3, "grpc_host": None}, env, directory=tmp_path)
    assert (config.db, config.grpc_port, config.http_port) == ("file.db", 2, 3)
    assert config.grpc_host == "127.0.0.1"
    assert config.core.payload_bytes_max == 8 * 1024 * 1024


def test_pyproject_is_read_if_there_is_no_stepwire_toml(tmp_path: Path) -> None:
    write(tmp_path, '[project]\nname = "x"\n[tool.stepwire]\ndb = "p.db"\n', "pyproject.toml")
    assert load(directory=tmp_path).db == "p.db"
    write(tmp_path, 'db = "s.db"')
    assert load(directory=tmp_path).db == "s.db"


def test_durations_and_sizes_as_text() -> None:
    env = {
        "STEPWIRE_SESSIONS__HEARTBEAT_INTERVAL": "250ms",
        "STEPWIRE_DRAIN_TIMEOUT": "2m",
        "STEPWIRE_SESSIONS__SILENCE_TIMEOUT": "1.5",
        "STEPWIRE_LIMITS__PAYLOAD_BYTES_MAX": "64 MiB",
        "STEPWIRE_LOG": "debug",
    }
    config = load(env=env)
    assert (config.heartbeat_interval, config.drain_timeout, config.silence_timeout) == (0.25, 120, 1.5)
    assert (config.payload_bytes_max, config.log) == (64 * 1024 * 1024, "debug")


@pytest.mark.parametrize(
    ("flags", "env", "toml", "expected"),
    [
        ({"grpc_prot": 1}, {}, "", r"unknown flag: grpc_prot\n.*did you mean grpc_port\?"),
        (
            {},
            {"STEPWIRE_GRPC_PROT": "1"},
            "",
            r"environment variable: STEPWIRE_GRPC_PROT\n.*mean STEPWIRE_GRPC__PORT\?",
        ),
        ({}, {"STEPWIRE_HTTP_PORT": "9000"}, "", r"did you mean STEPWIRE_HTTP__PORT\?"),
        ({}, {}, "[grpc]\nprt = 1", r"unknown key in .*stepwire\.toml: grpc\.prt\n.*did you mean grpc\.port\?"),
        ({}, {}, "zzzzzz = 1", r"unknown key .*: zzzzzz\n.*use one of db, grpc\.host"),
        ({}, {}, "grpc = 1", r"unknown key .*: grpc\n"),
        ({"grpc_port": 65536}, {}, "", r"--grpc-port is '65536'\n.*\n  next: give 0\.\.65535"),
        ({}, {"STEPWIRE_GRPC__PORT": "http"}, "", r"STEPWIRE_GRPC__PORT is 'http'"),
        ({}, {"STEPWIRE_GRPC__PORT": "-1"}, "", r"STEPWIRE_GRPC__PORT is '-1'"),
        ({}, {}, "[grpc]\nport = true", r"grpc\.port in .*stepwire\.toml is 'True'"),
        ({}, {}, "drain_timeout = nan", r"drain_timeout in .* is 'nan'"),
        ({}, {}, "drain_timeout = '3 weeks'", r"give 0\.\.86400 seconds, e\.g\."),
        ({}, {"STEPWIRE_LIMITS__PAYLOAD_BYTES_MAX": "65MiB"}, "", r"give 1024\.\.67108864 bytes"),
        ({}, {"STEPWIRE_LOG": "loud"}, "", r"give one of debug, info, warning, error"),
        ({"db": ""}, {}, "", r"--db is ''"),
        ({"silence_timeout": 5}, {}, "", r"at least twice heartbeat_interval"),
        ({}, {}, "= nonsense", r"cannot read .*stepwire\.toml"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(
    tmp_path: Path, flags: dict[str, Any], env: dict[str, str], toml: str, expected: str
) -> None:
    write(tmp_path, toml)
    with pytest.raises(ConfigError, match=expected):
        load(flags, env, directory=tmp_path)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(file=tmp_path / "absent.toml")


@pytest.mark.parametrize(
    "name",
    [
        "STEPWIRE_SERVICE_HOST", "STEPWIRE_SERVICE_PORT", "STEPWIRE_SERVICE_PORT_GRPC", "STEPWIRE_PORT",
        "STEPWIRE_PORT_7380_TCP", "STEPWIRE_PORT_7380_TCP_ADDR", "STEPWIRE_HTTP_SERVICE_HOST", "STEPWIRE_HTTP_PORT",
        "STEPWIRE_TOKEN", "STEPWIRE_ENGINE",
    ],
)  # fmt: skip
def test_names_of_others_are_left_alone(name: str) -> None:
    assert load(env={name: "tcp://10.0.0.1:7380"}) == Config()


def test_secrets_are_no_settings_and_known_by_the_rest_of_their_names() -> None:
    env = {"STEPWIRE_SECRET_TOKEN": "t", "STEPWIRE_SECRET_EMPTY": "", "OTHER": "x"}
    assert load(env=env) == Config()
    assert secrets_of(env) == {"TOKEN": "t"}


def test_bounds_also_hold_for_a_config_made_directly() -> None:
    with pytest.raises(ConfigError, match="grpc_port is '-1'"):
        Config(grpc_port=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().db = "x"  # type: ignore[misc]


def test_every_field_is_documented_once() -> None:
    fields = [field.name for field in dataclasses.fields(Config)]
    assert sorted(s.field for s in SETTINGS) == sorted(fields)
    assert len({s.key for s in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert setting.choices or setting.low < setting.high


MEASURED = [s for s in SETTINGS if not s.choices and s.unit is not Unit.DESTINATIONS]


@pytest.mark.parametrize("setting", MEASURED, ids=lambda s: s.field)
def test_both_bounds_of_every_setting_are_accepted(setting: Setting) -> None:
    for bound in (setting.low, setting.high):
        value: Any = "x" * int(bound) if setting.unit.value == "text" else type(getattr(Config(), setting.field))(bound)
        related = {"silence_timeout": 600.0} if setting.field == "heartbeat_interval" else {}
        related |= {"heartbeat_interval": 0.05} if setting.field == "silence_timeout" else {}
        assert getattr(load({**related, setting.field: value}), setting.field) == value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ()),
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        (" 10.0.0.0/8, ::1 ,orders.internal,", ("10.0.0.0/8", "::1", "orders.internal")),
        (["fd00::/8", "10.1.2.3"], ("fd00::/8", "10.1.2.3")),
    ],
)
def test_destinations_are_text_with_commas_or_a_list(given: object, expected: tuple[str, ...]) -> None:
    assert load({"call_allow": given}).call_allow == expected


@pytest.mark.parametrize(
    "wrong", ["10.0.0.1/8", "300.1.1.1", "10.0.0.0/33", "::g", "http://a", "a b", "*.internal", "a..b/", ["a", 1], 7]
)
def test_a_destination_that_is_neither_network_nor_host_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"--call-allow is .*\n.*\n  next: give at most 1000 networks and hosts"):
        load({"call_allow": wrong})


def test_more_destinations_than_1000_are_refused() -> None:
    assert len(load({"call_allow": ["10.0.0.1"] * 1000}).call_allow) == 1000
    with pytest.raises(ConfigError, match="--call-allow"):
        load({"call_allow": ["10.0.0.1"] * 1001})


def test_networks_are_told_from_names() -> None:
    assert [network_of(entry) is None for entry in ("10.0.0.0/8", "::1", "10.1.2.3", "a.b", "a")] == [
        False, False, False, True, True,
    ]  # fmt: skip


# ---- clocks


@pytest.mark.parametrize("clock", [SystemClock(), VirtualClock(7)], ids=["system", "virtual"])
def test_run_ids_are_unique_and_sort_by_time(clock: Clock) -> None:
    ids = [clock.run_id() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert all(len(i) == RUN_ID_LENGTH and i == i.lower() and i.isalnum() for i in ids)
    assert len({clock.session_id() for _ in range(100)}) == 100
    assert all(0 <= clock.seed() < 2**63 for _ in range(100))


def test_run_ids_carry_their_time_and_never_go_back() -> None:
    early, late = VirtualClock(1, unix_ms=1_000), VirtualClock(1, unix_ms=2_000)
    assert early.run_id() < late.run_id()
    assert VirtualClock(1, unix_ms=0).run_id()[:10] == "0000000000"
    assert VirtualClock(1, unix_ms=32).run_id()[:10] == "0000000010"


def test_the_virtual_clock_moves_only_when_told() -> None:
    clock = VirtualClock(3, unix_ms=1_000)
    assert clock.now() == clock.now() == (0.0, 1_000)
    assert clock.advance(2.5) == (2.5, 3_500)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert [VirtualClock(3).run_id(), VirtualClock(3).seed()] == [VirtualClock(3).run_id(), VirtualClock(3).seed()]
    assert VirtualClock(3).seed() != VirtualClock(4).seed()


FORKS = """
import os
from stepwire_engine.clock import SystemClock

clock = SystemClock()
clock.session_id()
end, begin = os.pipe()
if os.fork() == 0:
    os.write(begin, clock.session_id().encode())
    os._exit(0)
os.wait()
print(os.read(end, 100).decode(), clock.session_id())
"""


def test_a_fork_does_not_draw_what_its_parent_draws() -> None:
    shown = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    of_child, of_parent = shown.stdout.split()
    assert of_child != of_parent


def test_the_system_clock_goes_on() -> None:
    clock = SystemClock()
    first, second = clock.now(), clock.now()
    assert second.mono >= first.mono
    assert first.unix_ms > 1_700_000_000_000
