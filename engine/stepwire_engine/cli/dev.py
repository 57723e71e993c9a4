"""`stepwire dev`: an engine whose data stays, a host process for each target, reload, one terminal.

It starts the same commands a user could type (`stepwire engine`, `stepwire host`), so that what works here works
in production. It must not know anything else about them.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stepwire_engine import config
from stepwire_engine.calls.destinations import LOCAL_NETWORKS
from stepwire_engine.cli.failures import CommandError, ExitCode
from stepwire_engine.cli.options import ENVIRONMENT, color_option, duration
from stepwire_engine.cli.terminal import Color, data, talk, wants_color

if TYPE_CHECKING:
    import anyio

    from stepwire_engine.cli.supervisor import Changes, Plan

LOOPBACK = "127.0.0.1"
PORTS_TRIED = 100
DATA_DIRECTORY = ".stepwire"
MEMORY = ":memory:"
"""What the engine calls a database that is never written."""
ADOPTION_GRACE = "1s"
"""Short, because in development nobody wants to wait ten seconds for hosts that were stopped on purpose."""
_NAME_COLOURS = ("green", "magenta", "blue", "yellow", "red")


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1)
@click.option("--ephemeral", is_flag=True, help="Keep no data; otherwise it is in .stepwire/dev.db.")
@click.option("--no-reload", is_flag=True, help="Do not start hosts again when a file changes.")
@click.option(
    "--reload-dir",
    "reload_dirs",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory to watch for changes of Python files; may be repeated.  [default: this one]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=7380,
    show_default=True,
    help="Port of the engine; the next free one if it is taken.",
)
@click.option(
    "--http-port",
    type=click.IntRange(1, 65535),
    default=8380,
    show_default=True,
    help="Port of metrics and health, likewise.",
)
@click.option(
    "--drain-timeout",
    type=duration,
    metavar="DURATION",
    default=5.0,
    show_default=True,
    help="How long attempts in progress may go on when a host or the engine is stopped.",
)
@color_option
def dev(
    targets: Sequence[str],
    ephemeral: bool,
    no_reload: bool,
    reload_dirs: Sequence[Path],
    port: int,
    http_port: int,
    drain_timeout: float,
    color: Color,
) -> int:
    """Run an engine and hosts in one terminal, with reload.

    Each TARGET is a host as `stepwire host` takes it: app.py, app.py:orders or package.module:orders. Without one
    only the engine runs, for hosts that are started elsewhere. Ctrl-C stops everything.

    Call steps may reach this machine and private networks here; for `stepwire engine` that is --call-allow.
    """
    import anyio

    from stepwire_engine.cli.supervisor import Plan, Supervisor

    say = partial(talk, color=wants_color(color, sys.stderr))
    grpc, http = _free_port(port, "--port", say), _free_port(http_port, "--http-port", say)
    changes = None if no_reload or not targets else partial(_changes, _watched(targets, reload_dirs))
    database = _database(ephemeral)
    plan = Plan(
        engine=_engine_command(database, grpc, http, drain_timeout),
        hosts={name: _host_command(target, drain_timeout) for name, target in _names(targets).items()},
        environment=os.environ | {"STEPWIRE_ENGINE": f"{LOOPBACK}:{grpc}", "PYTHONUNBUFFERED": "1"},
        ready=(LOOPBACK, grpc),
        drain_timeout=drain_timeout,
        changes=changes,
    )
    show = _shower(["engine", *plan.hosts], wants_color(color, sys.stdout))

    async def supervise() -> int:
        return await Supervisor(plan, show=show, on_ready=lambda: _banner(plan, grpc, http, database, say)).run()

    return anyio.run(supervise)


def _engine_command(database: str, grpc: int, http: int, drain_timeout: float) -> list[str]:
    settings = {
        "--db": database,
        "--grpc-host": LOOPBACK,
        "--grpc-port": grpc,
        "--http-host": LOOPBACK,
        "--http-port": http,
        "--drain-timeout": f"{drain_timeout:g}",
        "--call-allow": ",".join((*LOCAL_NETWORKS, *_configured().call_allow)),
    }
    flags = [str(part) for pair in settings.items() for part in pair]
    return [*_stepwire(), "engine", *flags, "--adoption-grace", ADOPTION_GRACE, "--log-format", "text"]


def _configured() -> config.Config:
    """What the engine is configured with besides these flags. Raises ConfigError."""
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    return config.load(env=environment, directory=Path.cwd())


def _host_command(target: str, drain_timeout: float) -> list[str]:
    return [*_stepwire(), "host", "--drain-timeout", f"{drain_timeout:g}", "--log-format", "text", "--", target]


def _stepwire() -> list[str]:
    return [sys.executable, "-m", "stepwire_engine"]


def _names(targets: Sequence[str]) -> dict[str, str]:
    """Names for the lines of the hosts: the target, and if it is given twice its number too."""
    if len(set(targets)) == len(targets):
        return {target: target for target in targets}
    return {f"{target} {i}": target for i, target in enumerate(targets, 1)}


# ---- ports and files


def _free_port(wanted: int, flag: str, say: Callable[[str], None]) -> int:
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        if _is_free(port):
            if port != wanted:
                say(f"port {wanted} is taken, using {port} ({flag})")
            return port
    raise CommandError(
        f"no free port from {wanted} on",
        why=f"{PORTS_TRIED} ports were tried",
        next_command=f"stepwire dev {flag} PORT",
        exit_code=ExitCode.USAGE,
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Ports of connections that are closing are free; those of listeners stay taken, also with SO_REUSEPORT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _database(ephemeral: bool) -> str:
    if ephemeral:
        return MEMORY
    directory = Path(DATA_DIRECTORY)
    directory.mkdir(exist_ok=True)
    ignore = directory / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    return str(directory / "dev.db")


def _watched(targets: Sequence[str], reload_dirs: Sequence[Path]) -> list[Path]:
    if reload_dirs:
        return [path.resolve() for path in reload_dirs]
    files = (Path(target.partition(":")[0]) for target in targets)
    folders = {Path.cwd(), *(file.resolve().parent for file in files if file.suffix == ".py" and file.exists())}
    return sorted(folder for folder in folders if not any(parent in folders for parent in folder.parents))


async def _changes(directories: Sequence[Path], stop: anyio.Event) -> Changes:
    from watchfiles import PythonFilter, awatch

    # The event is looked at by the watching thread; to cancel the await would wait seconds for that thread.
    watching = awatch(*directories, watch_filter=PythonFilter(), step=50, debounce=400, stop_event=stop)
    async for found in watching:
        yield {Path(path) for _, path in found}


# ---- what is said


def _banner(plan: Plan, grpc: int, http: int, database: str, say: Callable[[str], None]) -> None:
    kept = "not kept" if database == MEMORY else database
    say(f"stepwire dev    engine {LOOPBACK}:{grpc}    http http://{LOOPBACK}:{http}    data {kept}")
    if grpc != 7380:
        say(f"in other terminals: export STEPWIRE_ENGINE={LOOPBACK}:{grpc}")
    if plan.changes is not None:
        say("hosts start again when a Python file changes (--no-reload, --reload-dir)")
    if not plan.hosts:
        say("no TARGET given: waiting for hosts that are started elsewhere")


def _shower(names: Sequence[str], color: bool) -> Callable[[str, str], None]:
    width = max(len(name) for name in names)
    colours = {name: _NAME_COLOURS[i % len(_NAME_COLOURS)] for i, name in enumerate(names[1:])} | {names[0]: "cyan"}

    def show(name: str, line: str) -> None:
        if name:
            data(f"{click.style(f'{name:<{width}} |', fg=colours[name])} {line}", color=color)
        else:
            talk(click.style(f"{'dev':<{width}} | {line}", bold=True), color=color)

    return show
