"""When a host dials again: at once, then with full jitter, for ever."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwire
from stepwire._transport.grpc_link import GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.redial import AT_ONCE_SECONDS, QUICK_CAP, QUICK_SECONDS, SLOW_CAP, Redial
from stepwire._transport.session import HostSession
from stepwire_engine.core.config import CoreConfig


def longest(low: float, high: float) -> float:
    assert low == 0.0, "full jitter"
    return high


def test_the_first_dial_after_a_stream_is_at_once() -> None:
    assert Redial(longest, 0.0).pause(100.0, served=True) == 0.0


def test_further_ones_wait_up_to_half_a_second_for_ten_seconds_and_up_to_five_then() -> None:
    redial = Redial(longest, 0.0)
    redial.pause(100.0, served=True)
    assert redial.pause(100.1, served=False) == QUICK_CAP == 0.5
    assert redial.pause(100.0 + QUICK_SECONDS - 0.1, served=False) == QUICK_CAP
    assert redial.pause(100.0 + QUICK_SECONDS, served=False) == SLOW_CAP == 5.0
    assert QUICK_SECONDS == 10.0


def test_an_engine_that_never_answers_is_dialled_for_ever() -> None:
    redial = Redial(longest, 0.0)
    for day in range(1, 1000):
        assert redial.pause(day * 86_400.0, served=False) == SLOW_CAP


def test_a_stream_that_was_served_begins_a_new_outage() -> None:
    redial = Redial(longest, 0.0)
    assert redial.pause(60.0, served=False) == SLOW_CAP
    assert redial.pause(90.0, served=True) == 0.0
    assert redial.pause(90.5, served=False) == QUICK_CAP


def test_an_engine_that_ends_every_stream_it_welcomed_is_not_dialled_in_a_loop() -> None:
    redial = Redial(longest, 0.0)
    assert redial.pause(1.0, served=True) == 0.0
    assert redial.pause(1.01, served=True) == QUICK_CAP
    assert redial.pause(1.0 + AT_ONCE_SECONDS, served=True) == 0.0


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=50))
def test_no_pause_is_longer_than_its_cap_and_dials_without_one_are_a_second_apart(
    ends: list[tuple[float, bool]],
) -> None:
    now, at_once = 0.0, []
    redial = Redial(longest, now)
    for after, served in ends:
        now += after
        pause = redial.pause(now, served=served)
        assert 0 <= pause <= SLOW_CAP
        if not pause:
            assert served
            at_once.append(now)
    assert all(second - first >= AT_ONCE_SECONDS for first, second in itertools.pairwise(at_once))


def test_a_short_outage_ends_within_the_grace_of_the_engine() -> None:
    """Two seconds without engine, the longest pause, and a dial: the host is back before its work is given away."""
    assert 2.0 + QUICK_CAP < CoreConfig().reconnect_grace


@pytest.mark.parametrize("dials", [6])
def test_a_link_dials_again_and_again_while_it_is_slammed(dials: int) -> None:
    session = HostSession(stepwire.Host("h").hello())
    at: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as slamming:
        slamming.settimeout(10)
        link = GrpcLink(
            f"127.0.0.1:{slamming.getsockname()[1]}",
            SessionPort(session, time.monotonic),
            lambda *_: None,
            lambda: None,
            lambda *_: None,
        )
        link.start()
        try:
            for _ in range(dials):
                slamming.accept()[0].close()
                at.append(time.monotonic())
        finally:
            link.stop(5)
    # Each pause is at most QUICK_CAP; a dial itself takes next to nothing.
    assert max(second - first for first, second in itertools.pairwise(at)) < QUICK_CAP + 1.0
    assert not [thread for thread in threading.enumerate() if thread.name == "stepwire-session"]
