"""The schema of the JSON lines: written, read again, refused."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import FIGURES
from benchmarks.lines import Line, Skipped, decode, encode
from tests.benchmarks.made import measured, session, subject

LINES: list[Line] = [
    session(),
    subject("stepwire"),
    measured("group_curve", size=10, steps=1000.0, seconds=0.25),
    Skipped(subject="restate", workload="w1", reason="not installed"),
]


def test_lines_are_read_as_they_were_written() -> None:
    assert list(decode([encode(line) for line in LINES])) == LINES


def test_every_line_says_what_it_is() -> None:
    assert [json.loads(encode(line))["line"] for line in LINES] == ["session", "subject", "measurement", "skipped"]


def test_figures_keep_six_digits() -> None:
    written = json.loads(encode(measured("a", seconds=1 / 3, steps=1e7)))
    assert written["figures"] == {"seconds": 0.333333, "steps": 10_000_000.0}


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        '{"line": "gossip"}',
        '{"line": "skipped", "subject": "a"}',
        '{"line": "skipped", "subject": "a", "reason": "b", "more": 1}',
        '{"line": "measurement", "workload": "a", "subject": "b", "round": 1, "figures": {"speed": 1}}',
        '{"line": "measurement", "workload": "a", "subject": "b", "round": "1", "figures": {}}',
    ],
)
def test_other_lines_are_refused_by_number(text: str) -> None:
    with pytest.raises(ValueError, match="line 2: "):
        list(decode([encode(LINES[0]), text]))


def test_the_table_of_figures_says_what_each_is() -> None:
    assert [name for name, figure in FIGURES.items() if not figure.meaning.endswith((".", "replay."))] == []
    headings = [figure.heading for figure in FIGURES.values()]
    assert len(set(headings)) == len(headings)


def test_of_a_long_reason_the_last_line_is_shown() -> None:
    assert Skipped(subject="a", workload="w1", reason="it ended:\ntraceback\nError: no\n").text == "a w1: Error: no"
