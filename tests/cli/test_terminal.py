"""Control characters, colours, and where each kind of output goes."""

from __future__ import annotations

import io

import pytest

from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color, without_cursor_moves


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("naïve ✔", "naïve ✔"),
        ("a\x1b[31mb", "a[31mb"),
        ("a\nb\tc", "a b c"),
        ("\u202eevil\u2066", "evil"),
        ("\x9b2J\x07\x7f", "2J"),
        ("\ud800x", "x"),
    ],
)
def test_printable(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_some_characters_may_be_kept() -> None:
    assert printable("a\nb\tc\r", "\n") == "a\nb c "


def test_lines_of_children_keep_their_colours_only() -> None:
    assert without_cursor_moves("\x1b[31mred\x1b[0m\x1b[2J\x1b]0;t\x07 x") == "\x1b[31mred\x1b[0m[2J]0;t x"


@pytest.mark.parametrize(
    ("choice", "terminal", "env", "expected"),
    [
        (Color.AUTO, True, {"TERM": "xterm"}, True),
        (Color.AUTO, False, {"TERM": "xterm"}, False),
        (Color.AUTO, True, {"TERM": "dumb"}, False),
        (Color.AUTO, True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Color.ALWAYS, False, {"NO_COLOR": "1"}, True),
        (Color.NEVER, True, {"TERM": "xterm"}, False),
    ],
)
def test_color(
    monkeypatch: pytest.MonkeyPatch, choice: Color, terminal: bool, env: dict[str, str], expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert wants_color(choice, Stream(terminal)) is expected


def test_data_and_talk(capsys: pytest.CaptureFixture[str]) -> None:
    data("\x1b[31moutput\x1b[0m")
    talk("progress")
    assert capsys.readouterr() == ("output\n", "progress\n")


def test_what_the_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    data("✔ é")
    assert raw.getvalue() == b"\\u2714 \\xe9\n"
