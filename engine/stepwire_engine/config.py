"""The engine's configuration: one frozen value from flags, environment, file and defaults, in this order.

Every setting has a key (`grpc.port` in `stepwire.toml`), an environment name (`STEPWIRE_GRPC__PORT`), a bound
and a line of help; the table that the documentation is generated from is `SETTINGS`. Nothing is read later
than start, and an unknown key is an error, because a misspelt limit that is ignored is worse than none.
"""

from __future__ import annotations

import difflib
import enum
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwire_engine.core.config import CoreConfig

FILE_NAME = "stepwire.toml"
ENV_PREFIX = "STEPWIRE_"
SECRET_PREFIX = "STEPWIRE_SECRET_"
"""What follows is the name of a secret, which `call` steps may put into a header; no setting."""
OTHER_ENV = frozenset({"STEPWIRE_ENGINE", "STEPWIRE_TOKEN", "STEPWIRE_PROFILE", "STEPWIRE_SEED"})
"""Names that the SDK, the command line and the tests read."""
# What Kubernetes puts into every container for services called "stepwire..."; not ours.
_KUBERNETES_ENV = re.compile(r"STEPWIRE(_.*)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_KUBERNETES_URL = re.compile(r"(tcp|udp|sctp)://")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?", re.ASCII)
_BYTES = re.compile(r"([0-9]+)\s*(KiB|MiB|GiB)?", re.ASCII)
_SIZES = {None: 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_CORE = CoreConfig()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """The configuration is wrong; the text says where, why and what is allowed. The process ends with 2."""

    exit_code = 2


class Unit(enum.Enum):
    """What a setting is measured in, and hence how its text is read."""

    TEXT = "text"
    CHOICE = "one of"
    COUNT = "count"
    PORT = "port"
    SECONDS = "seconds"
    BYTES = "bytes"
    DESTINATIONS = "networks and hosts"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one field of Config.

    Attributes:
        field: Name in Config and, with dashes, of the flag.
        key: Dotted place in the file.
        low, high: Bounds, inclusive.
        choices: For Unit.CHOICE.
    """

    field: str
    key: str
    unit: Unit
    help: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    @property
    def env(self) -> str:
        """The environment's name for it."""
        return ENV_PREFIX + self.key.upper().replace(".", "__")

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return "--" + self.field.replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How this engine runs. Bounds and meaning of each field stand in SETTINGS; times in seconds, sizes in bytes."""

    db: str = "stepwire.db"
    db_check_timeout: float = 2.0
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 7380
    http_host: str = "127.0.0.1"
    http_port: int = 8380
    heartbeat_interval: float = _CORE.heartbeat_interval
    reconnect_grace: float = _CORE.reconnect_grace
    silence_timeout: float = _CORE.silence_timeout
    adoption_grace: float = _CORE.adoption_grace
    drain_timeout: float = 30.0
    payload_bytes_max: int = _CORE.payload_bytes_max
    steps_per_run_max: int = _CORE.steps_per_run_max
    branches_per_group_max: int = _CORE.branches_per_group_max
    group_depth_max: int = _CORE.group_depth_max
    attempts_lost_max: int = _CORE.attempts_lost_max
    suspect_after: int = _CORE.suspect_after
    live_idle: float = _CORE.live_idle
    stop_grace: float = _CORE.stop_grace
    event_window: float = _CORE.event_window
    log_lines_per_run_max: int = _CORE.log_lines_per_run_max
    log_lines_waiting_max: int = _CORE.log_lines_waiting_max
    loop_lag_max: float = _CORE.loop_lag_max
    reconcile_interval: float = _CORE.reconcile_interval
    reconcile_portion: int = _CORE.reconcile_portion
    invoke_depth_max: int = _CORE.invoke_depth_max
    runs_in_memory_max: int = 100_000
    starts_pending_max: int = 10_000
    reads_pending_max: int = 1_000
    units_waiting_max: int = 50_000
    sessions_max: int = 1000
    write_timeout: float = 10.0
    queue_frames_max: int = 1000
    queue_bytes_max: int = 4 * 1024 * 1024
    faults_per_minute_max: int = 100
    faults_backoff: float = 30.0
    call_allow: tuple[str, ...] = ()
    call_slots: int = 256
    call_response_bytes_max: int = 1024 * 1024
    call_timeout_max: float = 12 * 3600.0
    event_loop: str = "auto"
    log: str = "info"
    log_format: str = "auto"

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            object.__setattr__(self, setting.field, _checked(setting, getattr(self, setting.field), setting.field))
        if self.silence_timeout < 2 * self.heartbeat_interval:
            raise ConfigError(
                f"silence_timeout is {self.silence_timeout:g} s, heartbeat_interval {self.heartbeat_interval:g} s\n"
                "  why: one late heartbeat would end a session\n"
                "  next: make silence_timeout at least twice heartbeat_interval"
            )

    @property
    def core(self) -> CoreConfig:
        """The numbers of the pure core."""
        shared = {name for name in CoreConfig.__struct_fields__ if name in _FIELDS}
        return CoreConfig(**{name: getattr(self, name) for name in shared})


_DAY = 86_400.0
_MIB = 1024 * 1024

SETTINGS: tuple[Setting, ...] = (
    Setting("db", "db", Unit.TEXT, "Path of the SQLite database; created if missing.", 1, 4096),
    Setting("grpc_host", "grpc.host", Unit.TEXT, "Address hosts and clients dial; loopback by default.", 1, 255),
    Setting("grpc_port", "grpc.port", Unit.PORT, "Its port; 0 takes a free one.", 0, 65535),
    Setting("http_host", "http.host", Unit.TEXT, "Address of metrics, health and the user interface.", 1, 255),
    Setting("http_port", "http.port", Unit.PORT, "Its port; 0 takes a free one.", 0, 65535),
    Setting("heartbeat_interval", "sessions.heartbeat_interval", Unit.SECONDS, "How often hosts report.", 0.05, 60),
    Setting(
        "reconnect_grace",
        "sessions.reconnect_grace",
        Unit.SECONDS,
        "From the end of a stream, or from silence, until its work goes to other hosts.",
        0,
        600,
    ),
    Setting(
        "silence_timeout",
        "sessions.silence_timeout",
        Unit.SECONDS,
        "Without a frame for this long a session counts as silent.",
        0.1,
        600,
    ),
    Setting(
        "adoption_grace",
        "sessions.adoption_grace",
        Unit.SECONDS,
        "After a restart, how long hosts may take to come back with what they hold.",
        0,
        600,
    ),
    Setting(
        "loop_lag_max",
        "sessions.loop_lag_max",
        Unit.SECONDS,
        "A host whose event loop is blocked for longer gets nothing new until it is not.",
        0.01,
        3600,
    ),
    Setting("sessions_max", "sessions.max", Unit.COUNT, "Hosts connected at once.", 1, 100_000),
    Setting(
        "write_timeout",
        "sessions.write_timeout",
        Unit.SECONDS,
        "How long a message may wait for its host to read before the stream is closed as a slow consumer's.",
        0.1,
        600,
    ),
    Setting(
        "queue_frames_max",
        "sessions.queue_frames_max",
        Unit.COUNT,
        "Frames that may wait for a host that reads slowly; a quarter of it, and the host gets nothing new.",
        4,
        1_000_000,
    ),
    Setting(
        "queue_bytes_max",
        "sessions.queue_bytes_max",
        Unit.BYTES,
        "Payloads in these frames; a quarter of it, and the host gets nothing new.",
        64 * 1024,
        1024 * _MIB,
    ),
    Setting(
        "faults_per_minute_max",
        "sessions.faults_per_minute_max",
        Unit.COUNT,
        "How often in a minute a host may break the protocol before it is refused for a while.",
        1,
        1_000_000,
    ),
    Setting(
        "faults_backoff",
        "sessions.faults_backoff",
        Unit.SECONDS,
        "How long such a host is refused; 0: it never is.",
        0,
        _DAY,
    ),
    Setting(
        "db_check_timeout",
        "db_check_timeout",
        Unit.SECONDS,
        "How long a database of more than 64 MiB is checked at the start; smaller ones are checked whole.",
        0,
        _DAY,
    ),
    Setting(
        "drain_timeout",
        "drain_timeout",
        Unit.SECONDS,
        "How long a stopping engine waits for attempts in progress.",
        0,
        _DAY,
    ),
    Setting("payload_bytes_max", "limits.payload_bytes_max", Unit.BYTES, "Longest input or output.", 1024, 64 * _MIB),
    Setting("steps_per_run_max", "limits.steps_per_run_max", Unit.COUNT, "Steps of one run.", 1, 1_000_000),
    Setting(
        "branches_per_group_max", "limits.branches_per_group_max", Unit.COUNT, "Branches of one group.", 1, 100_000
    ),
    Setting("group_depth_max", "limits.group_depth_max", Unit.COUNT, "Groups nested in groups.", 1, 100),
    Setting(
        "attempts_lost_max",
        "limits.attempts_lost_max",
        Unit.COUNT,
        "Hosts a step may lose in a row before its run fails with poison_step.",
        1,
        1000,
    ),
    Setting(
        "suspect_after",
        "limits.suspect_after",
        Unit.COUNT,
        "From so many lost hosts on, a host executes only one such step at a time.",
        1,
        1000,
    ),
    Setting(
        "live_idle",
        "limits.live_idle",
        Unit.SECONDS,
        "How long a run that only waits stays in memory; what is due sooner keeps it there.",
        0.01,
        _DAY,
    ),
    Setting(
        "stop_grace",
        "limits.stop_grace",
        Unit.SECONDS,
        "How long attempts of a stopping run may take to stop before its compensation begins.",
        0.0,
        _DAY,
    ),
    Setting(
        "event_window",
        "limits.event_window",
        Unit.SECONDS,
        "How long the ids of events are compared, and delivered events kept for look-back.",
        1.0,
        366 * _DAY,
    ),
    Setting(
        "reconcile_interval",
        "reconcile.interval",
        Unit.SECONDS,
        "How often the engine looks whether every open run has exactly one owner, at the most.",
        0.05,
        _DAY,
    ),
    Setting(
        "reconcile_portion",
        "reconcile.portion",
        Unit.COUNT,
        "Runs and steps that are looked at in one go, 0.25 s apart.",
        1,
        1_000_000,
    ),
    Setting(
        "invoke_depth_max",
        "limits.invoke_depth_max",
        Unit.COUNT,
        "Runs that invoke runs, above one run.",
        1,
        1000,
    ),
    Setting(
        "runs_in_memory_max",
        "limits.runs_in_memory_max",
        Unit.COUNT,
        "Runs in progress that are accepted at once.",
        1,
        10_000_000,
    ),
    Setting(
        "starts_pending_max",
        "limits.starts_pending_max",
        Unit.COUNT,
        "Calls that write and wait for their commit, at once.",
        1,
        1_000_000,
    ),
    Setting(
        "reads_pending_max",
        "limits.reads_pending_max",
        Unit.COUNT,
        "Calls that wait for a read of the database, at once.",
        1,
        1_000_000,
    ),
    Setting(
        "units_waiting_max",
        "limits.units_waiting_max",
        Unit.COUNT,
        "Commits on their way to the database; while there are more, calls that write are refused.",
        1,
        10_000_000,
    ),
    Setting(
        "call_allow",
        "calls.allow",
        Unit.DESTINATIONS,
        "What call steps may reach besides the public Internet; stepwire dev adds loopback and private networks.",
        0,
        1000,
    ),
    Setting("call_slots", "calls.slots", Unit.COUNT, "HTTP requests of call steps at once; 0: none.", 0, 10_000),
    Setting(
        "call_response_bytes_max",
        "calls.response_bytes_max",
        Unit.BYTES,
        "Longest body of an answer; as an output it must also keep to payload_bytes_max.",
        1024,
        64 * _MIB,
    ),
    Setting("call_timeout_max", "calls.timeout_max", Unit.SECONDS, "Longest attempt of a call step.", 0.001, 7 * _DAY),
    Setting(
        "log_lines_per_run_max",
        "logs.lines_per_run_max",
        Unit.COUNT,
        "Log lines of flows and steps that are kept of one run, the newest; 0: none.",
        0,
        100_000,
    ),
    Setting(
        "log_lines_waiting_max",
        "logs.waiting_max",
        Unit.COUNT,
        "Log lines of flows and steps that wait for their commit; more are dropped and counted.",
        1,
        1_000_000,
    ),
    Setting(
        "event_loop",
        "event_loop",
        Unit.CHOICE,
        "What the engine runs on; auto: uvloop if it is installed, otherwise asyncio.",
        choices=("auto", "asyncio", "uvloop"),
    ),
    Setting(
        "log", "log", Unit.CHOICE, "Least severe level that is logged.", choices=("debug", "info", "warning", "error")
    ),
    Setting(
        "log_format",
        "log_format",
        Unit.CHOICE,
        "auto: text on a terminal, otherwise JSON.",
        choices=("auto", "text", "json"),
    ),
)

_FIELDS = {setting.field: setting for setting in SETTINGS}
_KEYS = {setting.key: setting for setting in SETTINGS}
_ENV = {setting.env: setting for setting in SETTINGS}


def load(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    file: Path | None = None,
    directory: Path | None = None,
) -> Config:
    """Put the configuration together.

    Args:
        flags: By field name; None values count as not given.
        env: The environment; names that do not start with STEPWIRE_ are ignored.
        file: Must exist. Without it `stepwire.toml`, else `[tool.stepwire]` of `pyproject.toml`, in `directory`.
        directory: Where to look for these; None: nowhere.

    Raises:
        ConfigError: an unknown key (with a suggestion), a value out of bounds, an unreadable file.
    """
    values: dict[str, Any] = {}
    source = file or _found_file(directory)
    if source is not None:
        values |= _from_file(source)
    values |= _from_env(env or {})
    for name, value in (flags or {}).items():
        if value is not None:
            setting = _known(_FIELDS, name, "flag")
            values[setting.field] = _checked(setting, value, setting.flag)
    return Config(**values)


def _found_file(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    candidates = (directory / FILE_NAME, directory / "pyproject.toml")
    return next((path for path in candidates if path.is_file()), None)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from None
    if path.name == "pyproject.toml":
        content = content.get("tool", {}).get("stepwire", {})
    values = {}
    for key, value in _flat(content, ""):
        setting = _known(_KEYS, key, f"key in {path}")
        values[setting.field] = _checked(setting, value, f"{key} in {path}")
    return values


def _flat(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def secrets_of(env: Mapping[str, str]) -> dict[str, str]:
    """The secrets that `call` steps may name (MISSION V7), by their names. Empty ones are none."""
    return {name[len(SECRET_PREFIX) :]: text for name, text in env.items() if name.startswith(SECRET_PREFIX) and text}


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, text in env.items():
        if not name.startswith(ENV_PREFIX) or name.startswith(SECRET_PREFIX) or name in OTHER_ENV:
            continue
        if name not in _ENV and (_KUBERNETES_ENV.fullmatch(name) or _KUBERNETES_URL.match(text)):
            continue
        setting = _known(_ENV, name, "environment variable")
        values[setting.field] = _checked(setting, text, name)
    return values


def _known(settings: Mapping[str, Setting], name: str, what: str) -> Setting:
    if name in settings:
        return settings[name]
    near = difflib.get_close_matches(name, settings, n=1, cutoff=0.5)
    raise ConfigError(
        f"unknown {what}: {name}\n  next: "
        + (f"did you mean {near[0]}?" if near else f"use one of {', '.join(settings)}")
    )


# ---- values


def _checked(setting: Setting, value: Any, where: str) -> Any:
    """The value in the setting's unit, inside its bounds. Raises ConfigError naming `where`."""
    try:
        parsed = _READERS[setting.unit](value)
    except (ValueError, TypeError, KeyError):
        raise _refused(setting, value, where) from None
    size: Any = len(parsed) if isinstance(parsed, str | tuple) else parsed
    inside = parsed in setting.choices if setting.choices else setting.low <= size <= setting.high
    if not inside:
        raise _refused(setting, value, where)
    return parsed


def _refused(setting: Setting, value: Any, where: str) -> ConfigError:
    if setting.choices:
        allowed = f"one of {', '.join(setting.choices)}"
    elif setting.unit is Unit.TEXT:
        allowed = f"text of {setting.low:g}..{setting.high:g} characters"
    elif setting.unit is Unit.DESTINATIONS:
        allowed = f'at most {setting.high:g} networks and hosts, e.g. "10.1.0.0/16,orders.internal"'
    else:
        allowed = f"{setting.low:.12g}..{setting.high:.12g} {_EXAMPLES[setting.unit]}"
    return ConfigError(f"{where} is {str(value)[:80]!r}\n  why: {setting.help}\n  next: give {allowed}")


_EXAMPLES = {
    Unit.COUNT: "",
    Unit.PORT: "",
    Unit.SECONDS: 'seconds, e.g. 4, "250ms", "2m"',
    Unit.BYTES: 'bytes, e.g. "8MiB"',
}


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise ValueError
        return float(found[1]) * _SECONDS[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return float(value)


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        found = _BYTES.fullmatch(value.strip())
        if found is None:
            raise ValueError
        return int(found[1]) * _SIZES[found[2]]
    return _integer(value)


def _destinations(value: Any) -> tuple[str, ...]:
    """From text with commas, or from a list."""
    entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else list(value)
    named = tuple(_text(entry) for entry in entries if entry)
    for entry in named:
        network_of(entry)
    return named


def network_of(entry: str) -> Network | None:
    """The network or address that an entry of `call_allow` stands for; None: it is the name of a host.

    Raises:
        ValueError: it is neither.
    """
    if "/" in entry or ":" in entry or not entry.strip("0123456789."):
        return ipaddress.ip_network(entry)
    if not _HOST.fullmatch(entry):
        raise ValueError(f"{entry!r} is no name of a host")
    return None


_READERS: dict[Unit, Callable[[Any], Any]] = {
    Unit.TEXT: _text,
    Unit.CHOICE: _text,
    Unit.COUNT: _integer,
    Unit.PORT: _integer,
    Unit.SECONDS: _seconds,
    Unit.BYTES: _bytes,
    Unit.DESTINATIONS: _destinations,
}
