"""The choice of the bodies that go back to the engine: how many, which, and when to look again."""

from __future__ import annotations

from stepwire._runtime.keeping import BoundedBodies


class Held:
    """A body as the policy sees it."""

    def __init__(self, name: str, size: int = 10, *, waits: bool = True) -> None:
        self.name = name
        self.size = size
        self.counted = 0
        self.active = 0.0
        self.waits = waits


def chosen(policy: BoundedBodies, bodies: list[Held], now: float, *busy: str) -> str:
    return "".join(body.name for body in policy.surplus(bodies, now, lambda body: body.name in busy))


def moved(policy: BoundedBodies, *bodies: Held) -> list[Held]:
    """Each at the time of its number."""
    for now, body in enumerate(bodies):
        policy.moved(body, float(now))
    return list(bodies)


def test_below_the_bounds_nothing_is_given_back() -> None:
    policy = BoundedBodies(4, 1000, 1.0)
    assert chosen(policy, moved(policy, *map(Held, "abc")), 100.0) == ""
    assert policy.look_again() is None


def test_at_the_number_a_tenth_goes_and_the_one_that_waited_longest_is_first() -> None:
    policy = BoundedBodies(20, 1000, 1.0)
    bodies = moved(policy, *map(Held, "abcdefghijklmnopqrst"))
    policy.moved(bodies[0], 30.0)
    assert chosen(policy, bodies, 31.0) == "bc"


def test_a_body_that_waits_for_less_than_the_idle_time_stays_whatever_the_number() -> None:
    policy = BoundedBodies(2, 1000, 5.0)
    bodies = moved(policy, *map(Held, "ab"))
    assert chosen(policy, bodies, 4.0) == ""
    assert policy.look_again() is not None, "somebody must look again, or it would stay for ever"
    assert chosen(policy, bodies, 5.5) == "a"


def test_a_body_in_user_code_stays_and_one_with_attempts_goes_last() -> None:
    policy = BoundedBodies(20, 1000, 1.0)
    bodies = moved(policy, *map(Held, "abcdefghijklmnopqrst"))
    for body in bodies:
        body.waits = body.name in "abcd"
    bodies[1].waits = False
    assert chosen(policy, bodies, 50.0, "a") == "cd"
    assert chosen(policy, [bodies[0]], 50.0, "a") == "a", "if no other can go"


def test_beyond_the_bytes_bodies_go_however_short_they_wait_until_a_tenth_is_free() -> None:
    policy = BoundedBodies(100, 100, 1000.0)
    bodies = moved(policy, *[Held(name, 30) for name in "abcd"])
    assert policy.full and policy.total == 120
    assert chosen(policy, bodies, 5.0) == "a"
    policy.left(bodies[0])
    assert not policy.full and policy.total == 90


def test_one_body_is_always_taken_however_large() -> None:
    policy = BoundedBodies(100, 100, 1.0)
    (body,) = moved(policy, Held("a", 10_000))
    assert policy.full
    policy.left(body)
    assert not policy.full and policy.total == 0


def test_what_grows_is_counted_once() -> None:
    policy = BoundedBodies(100, 10_000, 1.0)
    body = Held("a", 10)
    for size in (10, 25, 25, 40):
        body.size = size
        policy.moved(body, 0.0)
    assert policy.total == 40


def test_a_look_that_found_nothing_is_not_made_again_at_once() -> None:
    policy = BoundedBodies(1, 1000, 8.0)
    bodies = moved(policy, Held("a", waits=False))
    assert chosen(policy, bodies, 10.0) == ""
    bodies[0].waits = True
    assert chosen(policy, bodies, 11.0) == "" and chosen(policy, bodies, 12.5) == "a"
