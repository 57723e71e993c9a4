"""Logs: whose line it is, whether code repeats itself, and how lines look (MISSION V1).

A host puts `run_id`, `step`, `attempt`, `flow`, `host` and `trace_id` on every record of `logging`, for every logger
and handler, and silences code that is replayed. Libraries that do not go through `logging` ask `context()` and
`repeating()`. The formatters are those of `stepwire host`, `stepwire dev` and `stepwire engine`, and may be used by
anybody. This module sets up no logging by itself.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from stepwire._runtime.logs import current_trace_id, host_name, origin, repeating

__all__ = ("JsonFormatter", "TextFormatter", "context", "current_trace_id", "formatter_for", "repeating")

IDS = ("run_id", "step", "flow", "attempt", "host", "trace_id")
"""What says whose line it is."""
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "area", *IDS}
_AREA_WIDTH = 4


def context() -> dict[str, str | int]:
    """Whose code this is: `run_id`, `step`, `attempt`, `flow`, `host` and `trace_id`; empty outside of flows and steps.

    Code of a flow itself has `attempt` 0, and as `step` the path of its branch or nothing.
    """
    found = origin()
    if found is None:
        return {}
    return found._asdict() | {"host": host_name(), "trace_id": current_trace_id()}


def formatter_for(choice: str, stream: TextIO = sys.stderr) -> logging.Formatter:
    """The formatter for lines on `stream`: "text", "json", or "auto" for text on a terminal and JSON elsewhere."""
    text = stream.isatty() if choice == "auto" else choice == "text"
    return TextFormatter() if text else JsonFormatter()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts` (RFC 3339, UTC), `level`, `logger`, `event` (the message), and the ids of the run.

    Then what was given with `extra=`, and `exception` and `stack` if there are any.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values = record.__dict__
        event: dict[str, object] = {
            "ts": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        event |= {name: values.get(name, "") for name in IDS}
        event |= {name: value for name, value in values.items() if name not in _KNOWN and name not in event}
        if record.exc_info:
            event["exception"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = record.stack_info
        return json.dumps(event, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, and whose it is. Only tracebacks take more lines.

    `10:42:07 WARNING shop  card declined  order 01JB... step charge attempt 2`

    Control characters are escaped, so that what users of a service write cannot move the cursor of a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and its traceback."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        area = record.__dict__.get("area")
        message, whose = _one_line(record.getMessage()), _whose(record)
        # What the engine says of a run begins with the run; what code says begins with what it says.
        parts = (whose, message) if area else (message, whose)
        text = f"{at} {record.levelname:<5} {area or record.name:<{_AREA_WIDTH}} {'  '.join(filter(None, parts))}"
        if record.exc_info:
            text += "\n" + (record.exc_text or self.formatException(record.exc_info))
        return f"{text}\n{record.stack_info}" if record.stack_info else text


def _whose(record: logging.LogRecord) -> str:
    values = record.__dict__
    named = (("", values.get("flow")), ("", values.get("run_id")), ("step", values.get("step")))
    words = [f"{word} {value}".strip() for word, value in named if value]
    if values.get("attempt"):
        most = values.get("attempts_max")
        words.append(f"attempt {values['attempt']}" + (f"/{most}" if most else ""))
    return _one_line(" ".join(words))


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)
