"""What is printed: the table, ratios to a file of before, and to another subject."""

from __future__ import annotations

import pytest

from benchmarks.lines import Line
from benchmarks.medians import results
from benchmarks.tables import heading, number, ratios, table
from tests.benchmarks.made import measured, session, some, subject, work


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (12345.6, "12,346"), (100, "100"), (99.94, "99.9"), (9.996, "10.00"), (0.123, "0.12")],
)
def test_numbers_have_as_many_digits_as_one_can_use(value: float | None, text: str) -> None:
    assert number(value) == text


def test_ratios_are_of_figures_with_a_direction_that_both_have() -> None:
    now = {"steps_per_s": 300.0, "run_p50_ms": 1.0, "spin_ms": 5.0, "ratio": 2.0, "commits_per_step": 1.0}
    before = {"steps_per_s": 100.0, "run_p50_ms": 4.0, "spin_ms": 4.0, "commits_per_step": 0.0}
    assert ratios(now, before) == {"steps_per_s": 3.0, "run_p50_ms": 0.25}


def test_a_baseline_adds_a_line_below_its_row() -> None:
    before = results([measured("group_100", steps_per_s=25_000, engine_cpu_us=24)])
    assert "now steps/s 2.00x, engine us 0.50x of the baseline" in table(some(), before)
    assert "baseline" not in table(some())


def test_subjects_stand_beside_each_other() -> None:
    printed = table(some())
    assert "· restate" in printed and "· stepwire" in printed
    assert "stepwire is steps/s 12.00x, run p50 ms 0.08x of restate" in printed


def test_goals_end_the_table() -> None:
    printed = table(some()).splitlines()
    assert [line.split()[0] for line in printed[-5:]] == ["met", "MISSED", "met", "met", "met"]


def test_the_heading_says_what_figures_depend_on() -> None:
    said = heading(some())
    assert "cores 2" in said and "durable as restate is" in said and "skipped: inngest: no server binary" in said
    tried: list[Line] = [session(scale=0.1), subject("stepwire"), work("w1", "stepwire", 1, 1)]
    assert "a try, no result" in heading(results(tried))
