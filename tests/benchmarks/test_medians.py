"""Statistics over the rounds."""

from __future__ import annotations

import pytest

from benchmarks.driving import drive
from benchmarks.medians import Key, quantile, results
from benchmarks.processes import sum_of
from tests.benchmarks.made import measured, session, some


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.99, 5.0), ([3, 1, 2], 0.5, 2), ([4, 3, 2, 1], 0.5, 2), (range(1, 101), 0.99, 99), ([1, 2], 0.0, 1)],
)
def test_quantile(values: list[float], share: float, expected: float) -> None:
    assert quantile(list(values), share) == expected


def test_medians_are_of_each_figure_over_the_rounds_that_have_it() -> None:
    found = results(
        [
            session(),
            measured("a", seconds=3, ratio=2),
            measured("a", seconds=1),
            measured("a", seconds=2, ratio=4),
            measured("a", subject="against", seconds=9),
            measured("a", size=10, seconds=7),
        ]
    )
    assert found.medians(Key("a", "stepwire")) == {"seconds": 2, "ratio": 3}
    assert found.median(Key("a", "stepwire", 10), "seconds") == 7
    assert found.median(Key("a", "stepwire"), "steps") is None
    assert found.medians(Key("b", "stepwire")) == {}
    assert found.keys("a") == [Key("a", "stepwire"), Key("a", "against"), Key("a", "stepwire", 10)]


@pytest.mark.parametrize(("foreign", "median"), [((0, 0.3, 0, 2, 2), 2), ((0, 0, 2, 2, 2), 8)])
def test_disturbed_rounds_are_left_out_if_three_are_quiet(foreign: tuple[float, ...], median: float) -> None:
    rounds = [measured("a", seconds=s, foreign_cores=f) for s, f in zip((1, 2, 8, 9, 10), foreign, strict=True)]
    assert results(rounds).median(Key("a", "stepwire"), "seconds") == median


@pytest.mark.parametrize(("patience", "median"), [(20.0, 2), (0.0, 8)])
def test_slowed_rounds_are_left_out_if_they_were_to_wait(patience: float, median: float) -> None:
    rounds = [measured("a", seconds=s, slowed=f) for s, f in zip((1, 2, 8, 9, 10), (1, 1.2, 1.1, 2, 2), strict=True)]
    assert results([session(patience=patience), *rounds]).median(Key("a", "stepwire"), "seconds") == median


def test_results_keep_the_order_of_the_file() -> None:
    found = some()
    assert found.workloads() == ["group_100", "sequence_curve", "w3"]
    assert list(found.subjects) == ["stepwire", "restate"]


@pytest.mark.parametrize("at_once", [1, 4])
def test_drive_adds_up_what_runs_acknowledge(at_once: int) -> None:
    driven = drive(lambda: 3, 10, at_once)
    assert driven.acknowledged == 30
    assert len(driven.run_seconds) == 10 and min(driven.run_seconds) >= 0


def test_samples_of_a_metric_are_added_up() -> None:
    text = '# HELP a b\na 1\na_total 7\na{state="x"} 2\na{state="y",flow="x"} 4\n'
    assert sum_of(text, "a") == 7
    assert sum_of(text, "a", ['state="y"']) == 4
