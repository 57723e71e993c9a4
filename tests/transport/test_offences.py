"""Peers that break the protocol again and again are refused for a while, and no others."""

from __future__ import annotations

from stepwire_engine.transport.offences import OFFENDERS_MAX, WINDOW_SECONDS, Offences


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def offences(clock: Hand, per_minute_max: int = 3, backoff: float = 30.0) -> Offences:
    return Offences(clock, per_minute_max=per_minute_max, backoff=backoff)


def test_as_many_as_are_allowed_are_answered_one_by_one() -> None:
    known = offences(Hand())
    assert [known.note("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert known.refused_for("a") == 0.0


def test_one_more_is_refused_for_the_backoff_and_nobody_else_is() -> None:
    clock = Hand()
    known = offences(clock)
    assert [known.note("a") for _ in range(4)][-1] == 30.0
    assert (known.refused_for("a"), known.refused_for("b")) == (30.0, 0.0)
    clock.now += 29.0
    assert known.refused_for("a") == 1.0
    clock.now += 1.0
    assert known.refused_for("a") == 0.0


def test_each_further_one_begins_the_backoff_anew() -> None:
    clock = Hand()
    known = offences(clock)
    for _ in range(4):
        known.note("a")
    clock.now += 20.0
    assert known.note("a") == 30.0


def test_a_minute_later_the_count_begins_again() -> None:
    clock = Hand()
    known = offences(clock)
    for _ in range(3):
        known.note("a")
    clock.now += WINDOW_SECONDS + 0.1
    assert [known.note("a") for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_backoff_of_zero_refuses_nobody() -> None:
    known = offences(Hand(), backoff=0.0)
    assert {known.note("a") for _ in range(100)} == {0.0}


def test_what_is_remembered_is_bounded_and_the_quiet_are_forgotten_first() -> None:
    known = offences(Hand(), per_minute_max=1)
    known.note("first")
    known.note("second")
    for number in range(OFFENDERS_MAX - 2):
        known.note(f"peer {number}")
    known.note("first")
    known.note("one more")
    assert len(known._records) == OFFENDERS_MAX
    assert known.refused_for("first") > 0.0 and "second" not in known._records
