"""What reaches the terminal: data on stdout, talk on stderr, and no control characters of other people's making.

Names, outputs and messages come from user code and from other machines; printed raw, they could move the
cursor, recolour or retitle the terminal of whoever looks at a run.
"""

from __future__ import annotations

import enum
import os
import re
import sys
from typing import TextIO

import click

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Color(enum.StrEnum):
    """Values of `--color`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def printable(text: str, keep: str = "") -> str:
    """`text` without control, formatting and bidirectional characters.

    Args:
        keep: Characters to leave alone, for example newlines in a traceback.
    """
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch in keep else " " if ch.isspace() else "" for ch in text)


def without_cursor_moves(line: str) -> str:
    """One line of a child process: its colours stay, every other control character goes."""
    return "".join(part if i % 2 else printable(part, "\t") for i, part in enumerate(_COLOURS.split(line)))


def safe_json(text: str) -> str:
    """JSON `text` with those characters escaped that terminals obey and JSON allows unescaped.

    They can only stand inside of strings, so the document means the same.
    """
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def wants_color(choice: Color, stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`; `auto` obeys NO_COLOR and asks for a capable terminal."""
    if choice is not Color.AUTO:
        return choice is Color.ALWAYS
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def data(text: str, *, color: bool = False) -> None:
    """Print what the command was asked for."""
    _print(text, sys.stdout, color)


def talk(text: str, *, color: bool = False) -> None:
    """Print what is said about it: progress, hints, errors."""
    _print(text, sys.stderr, color)


def _print(text: str, stream: TextIO, color: bool) -> None:
    text = text if color else click.unstyle(text)
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
