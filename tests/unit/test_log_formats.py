"""How log lines look: one line of JSON for machines, one line for people (MISSION V1)."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any

import pytest

from stepwire import logs

IDS = {"run_id": "01jb", "step": "charge", "flow": "order", "attempt": 2, "host": "shop", "trace_id": ""}


def record(message: str, *args: object, level: int = logging.WARNING, **values: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop.pay", level, "pay.py", 7, message, args, None)
    made.__dict__.update(values)
    return made


def failure() -> Any:
    try:
        raise ValueError("no card")
    except ValueError:
        return sys.exc_info()


def test_json_has_the_ids_and_the_message() -> None:
    event = json.loads(logs.JsonFormatter().format(record("charged %d", 7, **IDS)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("ts"))
    assert event == {"level": "warning", "logger": "shop.pay", "event": "charged 7", **IDS}


def test_json_of_others_has_empty_ids_and_what_was_given_as_extra() -> None:
    event = json.loads(logs.JsonFormatter().format(record("hello", order=7, odd=object, level_of="x")))
    assert [event[name] for name in IDS] == [""] * 6
    assert event["order"] == 7 and event["odd"] == "<class 'object'>"
    assert "taskName" not in event and "lineno" not in event


def test_json_keeps_tracebacks_and_line_breaks_on_one_line() -> None:
    text = logs.JsonFormatter().format(record("two\nlines", exc_info=failure(), stack_info="Stack"))
    event = json.loads(text)
    assert "\n" not in text and event["event"] == "two\nlines" and event["stack"] == "Stack"
    assert event["exception"].startswith("Traceback") and event["exception"].endswith("ValueError: no card")


def test_text_ends_with_whose_line_it_is() -> None:
    text = logs.TextFormatter().format(record("card declined", **IDS))
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING shop\.pay card declined  order 01jb step charge attempt 2", text)
    assert logs.TextFormatter().format(record("hello"))[9:] == "WARNING shop.pay hello"


def test_what_the_engine_says_begins_with_the_run() -> None:
    said = record('retry in 1.2s err="timeout"', level=logging.INFO, area="run", attempts_max=4, **IDS)
    assert logs.TextFormatter().format(said)[9:] == (
        'INFO  run  order 01jb step charge attempt 2/4  retry in 1.2s err="timeout"'
    )


def test_text_moves_no_cursor_and_breaks_no_line() -> None:
    text = logs.TextFormatter().format(record("a\nb\x1b[2J\u202e", run_id="r\x07"))
    assert text[9:] == "WARNING shop.pay a\\nb\\x1b[2J\\u202e  r\\x07"


def test_text_has_tracebacks_on_lines_of_their_own() -> None:
    first, *more = logs.TextFormatter().format(record("no", exc_info=failure())).splitlines()
    assert first.endswith("no") and more[0].startswith("Traceback") and more[-1] == "ValueError: no card"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "stream", "kind"),
    [
        ("auto", Tty(), logs.TextFormatter),
        ("auto", io.StringIO(), logs.JsonFormatter),
        ("text", io.StringIO(), logs.TextFormatter),
        ("json", Tty(), logs.JsonFormatter),
    ],
)
def test_the_format_is_that_of_the_place_unless_it_is_chosen(choice: str, stream: io.StringIO, kind: type) -> None:
    assert type(logs.formatter_for(choice, stream)) is kind
