"""`stepwire send`: send an event, print its id."""

from __future__ import annotations

from datetime import datetime

import click

from stepwire_engine.cli.failures import CommandError
from stepwire_engine.cli.json_input import json_value
from stepwire_engine.cli.options import Output, engine_option, output_option
from stepwire_engine.cli.terminal import data, talk


def _time(text: object) -> datetime:
    """A time with time zone, in ISO 8601. The type of `--at`."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time; write e.g. 2026-05-01T09:30:00Z") from None
    if at.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no time zone; write e.g. {text}Z or {text}+02:00")
    return at


@click.command()
@click.argument("name")
@click.option(
    "-d",
    "--data",
    "given",
    metavar="JSON|@FILE|-",
    help="What the event carries: JSON, a file of JSON, or stdin.  [default: null]",
)
@click.option("--id", "event_id", metavar="ID", default="", help="Id of the event: sent twice, it counts once.")
@click.option(
    "--at",
    type=_time,
    metavar="TIME",
    help="When it is delivered, at most 366 days ahead: 2026-05-01T09:30:00Z.  [default: now]",
)
@engine_option
@output_option
def send(name: str, given: str | None, event_id: str, at: datetime | None, address: str, output: Output) -> None:
    """Send an event to flows that wait for NAME, or start by it.

    Prints the id of the event. Exit code 0 means that the engine has stored it.
    """
    value = json_value(given, "data", "--data", "stepwire send")
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import SentEvent, line, page

    try:
        with connect(address) as engine:
            sent = engine.send(name, value, event_id, at)
    except ValueError as problem:
        raise CommandError("this cannot be an event", why=str(problem), next_command="stepwire send --help") from None
    match output:
        case Output.JSON:
            data(page(SentEvent(event_id=sent, name=name)))
        case Output.JSONL:
            data(line(SentEvent(event_id=sent, name=name)))
        case Output.TABLE:
            data(sent)
            talk("the event is stored; see what it does with: stepwire runs list")
