#!/usr/bin/env python3
"""Write the reference pages in docs/reference/, or check that the committed ones are current.

Every page is made from what the program itself uses: tables of metrics and settings, the protos, click's
commands, docstrings. `python scripts/docs.py` writes them; `--check` writes nothing and ends with 1 if a page
is stale. That nothing public lacks an explanation is checked by `tests/docs/test_reference.py`. A fact that
stands in code must not be typed in again here.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import grpc

import stepwire
from stepwire import errors
from stepwire._runtime import telemetry as host_telemetry
from stepwire._transport.run_errors import error_from_rpc
from stepwire.metrics import Open
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire_engine import cli, config, telemetry
from stepwire_engine.cli.engine import ALIASES
from stepwire_engine.store import base as store
from stepwire_engine.transport.status import STATUS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "reference"
HELP_COLUMNS = 100
PROSE_COLUMNS = 120
_CITATION = re.compile(r"\s*\((?:MISSION|DESIGN)\b[^)]*\)")
_PROTO_CODE = re.compile(r"((?:^  //.*\n)+)^  ERROR_CODE_(\w+) = \d+;", re.MULTILINE)
_SIZES = ((1024**2, "MiB"), (1024, "KiB"))


# ---- markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(title: str, source: str, *parts: str) -> str:
    notice = f"<!-- Made by scripts/docs.py from {source}. Do not edit: change the source. -->\n"
    return "\n".join([f"# {title}\n", notice, *parts])


def prose(text: str) -> str:
    return textwrap.fill(text, PROSE_COLUMNS, break_long_words=False, break_on_hyphens=False) + "\n"


def first_line(subject: object) -> str:
    """First line of the subject's own docstring, without citations; empty if it has none."""
    text = getattr(subject, "__doc__", None) or ""
    if isinstance(subject, type) and text.startswith(f"{subject.__name__}("):
        return ""  # what dataclass writes when nobody else did
    return _CITATION.sub("", inspect.cleandoc(text).partition("\n")[0])


# ---- metrics


def metrics() -> str:
    return page(
        "Metrics",
        "`stepwire_engine/telemetry.py` and `stepwire/_runtime/telemetry.py`",
        prose(
            "The engine serves its metrics at `/metrics` on its HTTP address. A host's are in `Host.registry`, a"
            " registry of `prometheus_client` that the service exposes with its own. Times are in seconds, sizes in"
            " bytes. Labels come from closed sets, never from runs, paths or error texts; the series of a closed set"
            " are there from the start, with 0. Labels marked *open* hold names:"
            f" at most {telemetry.FLOWS_MAX} flows and {telemetry.SERVICES_MAX} services, later ones count as"
            f" `{telemetry.OTHER}`."
        ),
        f"## Engine\n\n{_metric_table(telemetry.PREFIX, telemetry.METRICS)}",
        prose("The engine also exports the `process_*` metrics of `prometheus_client`."),
        f"## Host\n\n{_metric_table(host_telemetry.PREFIX, host_telemetry.METRICS)}",
        f"## Buckets\n\n{table(('histogram', 'upper bounds'), _buckets())}",
    )


def _metric_table(prefix: str, definitions: Iterable[Any]) -> str:
    rows = ((f"`{prefix}{d.name}`", d.kind.value, d.unit, _labels(d), d.help) for d in definitions)
    return table(("name", "type", "unit", "labels", "meaning"), rows)


def _labels(definition: Any) -> str:
    return "; ".join(f"`{name}`: {_values(values)}" for name, values in definition.labels.items())


def _values(values: object) -> str:
    if isinstance(values, Open):
        return "*open*"
    assert isinstance(values, tuple)
    return ", ".join(values) or "one value"


def _buckets() -> Iterator[tuple[str, str]]:
    tables = (telemetry.PREFIX, telemetry.METRICS), (host_telemetry.PREFIX, host_telemetry.METRICS)
    for prefix, definitions in tables:
        for definition in definitions:
            if definition.buckets:
                yield f"`{prefix}{definition.name}`", ", ".join(f"{bound:g}" for bound in definition.buckets)


# ---- configuration


def configuration() -> str:
    defaults = config.Config()
    rows = (
        (
            " ".join(f"`{flag}`" for flag in (setting.flag, ALIASES.get(setting.field)) if flag),
            f"`{setting.env}`",
            f"`{setting.key}`",
            _amount(setting.unit, getattr(defaults, setting.field)),
            setting.unit.value if setting.unit is not config.Unit.CHOICE else "",
            _bound(setting),
            setting.help,
        )
        for setting in config.SETTINGS
    )
    return page(
        "Configuration of the engine",
        "`stepwire_engine/config.py`",
        prose(
            "Flags win over the environment, the environment over the file, the file over defaults. The file is the one"
            f" of `--config`, else `{config.FILE_NAME}`, else the table `tool.stepwire` of `pyproject.toml`, in the"
            " directory the engine is started in. Unknown keys and values out of bounds end the start with exit code"
            f" {config.ConfigError.exit_code}. Seconds may have a unit (`250ms`, `2m`, `1h`, `1d`), bytes too (`8MiB`)."
            " Hosts are configured by the arguments of `stepwire.Host`, commands by [their options](cli.md)."
        ),
        table(("flag", "environment", "key in the file", "default", "unit", "bound", "meaning"), rows),
    )


def _amount(unit: config.Unit, value: Any) -> str:
    match unit:
        case config.Unit.BYTES:
            size, name = next(((size, name) for size, name in _SIZES if value % size == 0), (1, ""))
            return f"{value // size} {name}".strip()
        case config.Unit.TEXT | config.Unit.CHOICE:
            return f"`{value}`"
        case config.Unit.DESTINATIONS if isinstance(value, tuple):
            return ", ".join(value) or "none"
        case _:
            return f"{value:.12g}"


def _bound(setting: config.Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    low, high = (_amount(setting.unit, int(v) if v == int(v) else v).strip("`") for v in (setting.low, setting.high))
    of = {config.Unit.TEXT: " characters", config.Unit.DESTINATIONS: " entries"}
    return f"{low}..{high}{of.get(setting.unit, '')}"


# ---- errors


def code_meanings() -> dict[str, str]:
    """Comment of every code of `failure.proto`, by the code's name without prefix."""
    proto = (ROOT / "proto" / "stepwire" / "v1" / "failure.proto").read_text(encoding="utf-8")
    found = _PROTO_CODE.findall(proto)
    return {name: " ".join(line.strip().removeprefix("//").strip() for line in c.splitlines()) for c, name in found}


class _Refused(grpc.RpcError):
    """A call refused by an engine, as gRPC reports it."""

    def __init__(self, code: ErrorCode) -> None:
        self.refusal = code

    def code(self) -> grpc.StatusCode:
        return STATUS[self.refusal].grpc

    def details(self) -> str:
        return "refused"

    def trailing_metadata(self) -> Any:
        return (("stepwire-code", self.refusal.slug),)


def error_codes() -> str:
    meanings = code_meanings()
    rows = (
        (
            f"`{code.slug}`",
            str(int(code)),
            meanings.get(code.name, ""),
            STATUS[code].grpc.name,
            str(STATUS[code].http),
            str(STATUS[code].exit_code),
            f"`{type(errors.error_from_failure(Failure(code, '', ''))).__name__}`",
            f"`{type(error_from_rpc(_Refused(code), '')).__name__}`",
        )
        for code in ErrorCode
    )
    return page(
        "Errors",
        "`failure.proto`, `transport/status.py`, `stepwire/errors.py` and `store/base.py`",
        prose(
            "A code is stable, a message is not. An engine's refusal carries the code in the gRPC trailing metadata"
            " `stepwire-code`. Numbers 1 to 29 are failures of flows and steps, 30 to 49 faults of a host's stream, 50"
            " and above refusals of calls. The last two columns are the exceptions of the Python SDK: what a flow"
            " catches around a step that failed with the code, and what a client raises for a call that was refused"
            " with it."
        ),
        "## Codes\n\n"
        + table(("code", "number", "meaning", "gRPC", "HTTP", "exit", "in a flow", "from a client"), rows),
        "## Exceptions\n\n"
        + prose(
            "Names without `stepwire.errors.` are exported by `stepwire`. The code is what a class carries unless its"
            " failure says otherwise."
        )
        + "\n"
        + table(("exception", "base", "code", "meaning", "what to do next"), map(_exception_row, exceptions())),
        "## Exit codes\n\n"
        + prose((cli.stepwire.epilog or "").removeprefix("Exit codes: "))
        + "\n"
        + prose("`stepwire engine` ends with these if its database cannot be used:")
        + "\n"
        + table(("exit", "cause", "meaning"), map(_store_row, store_errors())),
    )


def exceptions() -> list[type[BaseException]]:
    """Exception classes of stepwire.errors, in the order of the file."""
    found = (member for member in vars(errors).values() if inspect.isclass(member))
    own = (cls for cls in found if issubclass(cls, BaseException) and cls.__module__ == errors.__name__)
    return [cls for cls in own if not cls.__name__.startswith("_")]


def _exception_row(cls: type[BaseException]) -> tuple[str, ...]:
    name = cls.__name__ if cls.__name__ in stepwire.__all__ else f"stepwire.errors.{cls.__name__}"
    code = getattr(cls, "code", None)
    slug = f"`{code.slug}`" if isinstance(code, ErrorCode) else ""
    return f"`{name}`", f"`{cls.__mro__[1].__name__}`", slug, first_line(cls), str(getattr(cls, "hint", ""))


def store_errors() -> list[type[store.StoreError]]:
    found = [cls for cls in vars(store).values() if inspect.isclass(cls) and issubclass(cls, store.StoreError)]
    return sorted((cls for cls in found if cls is not store.StoreError), key=lambda cls: (cls.exit_code, cls.__name__))


def _store_row(cls: type[store.StoreError]) -> tuple[str, ...]:
    return str(cls.exit_code), f"`{cls.__name__}`", first_line(cls)


# ---- command line


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command, groups before their members."""
    return _walk(_context(cli.stepwire, "stepwire", None))


def _walk(context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    command = context.command
    yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from _walk(_context(member, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=HELP_COLUMNS,
        max_content_width=HELP_COLUMNS,
        help_option_names=["-h", "--help"],
        color=False,
    )


def command_line() -> str:
    sections = (
        f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n" for context, command in commands()
    )
    return page(
        "Command line",
        "the commands of `stepwire_engine/cli/`",
        prose(
            "The command comes with `pip install 'stepwire[engine]'`. Data goes to stdout, everything else to stderr."
            " [Errors](errors.md) are three lines: what, why, and the next command."
        ),
        *sections,
    )


# ---- Python


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties of a class that Stepwire defines, its own before those of bases."""
    seen = set()
    for owner in cls.__mro__:
        if not owner.__module__.startswith("stepwire") or owner is errors.StepwireError:
            continue
        for name, member in vars(owner).items():
            described = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
            if described and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member


def api() -> str:
    public = [(name, getattr(stepwire, name)) for name in stepwire.__all__]
    raised = [(name, subject) for name, subject in public if _is_exception(subject)]
    others = [(name, subject) for name, subject in public if not _is_exception(subject)]
    parts = [_api_section(name, subject) for name, subject in others]
    rows = ((f"`{name}`", first_line(subject)) for name, subject in raised)
    return page(
        "Python API",
        "`stepwire.__all__` and its docstrings",
        prose(
            "Everything `import stepwire` offers; the full contract of each name is in its docstring"
            " (`help(stepwire.Host)`). Exceptions with their codes and remedies are in [errors.md](errors.md)."
        ),
        *parts,
        "## Exceptions\n\n" + table(("name", "meaning"), rows),
    )


def _is_exception(subject: object) -> bool:
    return isinstance(subject, type) and issubclass(subject, BaseException)


def _api_section(name: str, subject: object) -> str:
    text = f"## {name}\n\n{first_line(subject)}\n"
    if not isinstance(subject, type):
        return text
    rows = [(f"`{member}`", first_line(found)) for member, found in members(subject)]
    rows += [(f"`ctx.{part}.{m}`", first_line(f)) for part, owner in parts_of(name) for m, f in members(owner)]
    return text + ("\n" + table(("member", "meaning"), rows) if rows else "")


def parts_of(name: str) -> Iterator[tuple[str, type]]:
    """What a context carries: `ctx.step` and `ctx.group`, whose classes are not public names."""
    from stepwire import context

    carried: dict[str, tuple[tuple[str, type], ...]] = {
        "Context": (("step", context.Step), ("group", context.Group)),
        "ContextSync": (("step", context.StepSync), ("group", context.GroupSync)),
    }
    yield from carried.get(name, ())


# ---- files

PAGES: dict[str, Callable[[], str]] = {
    "api.md": api,
    "cli.md": command_line,
    "configuration.md": configuration,
    "errors.md": error_codes,
    "metrics.md": metrics,
}
"""Name of each page -> what makes its text."""


def stale() -> list[str]:
    """Pages that differ from what the program says now, are missing, or are nobody's."""
    wanted = {name: make() for name, make in PAGES.items()}
    present = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.md")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare; end with 1 if a page is stale")
    if parser.parse_args().check:
        for name in (outdated := stale()):
            print(f"error: docs/reference/{name} is stale; run `python scripts/docs.py`", file=sys.stderr)
        return 1 if outdated else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (TARGET / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
