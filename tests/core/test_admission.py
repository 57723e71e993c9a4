"""Places in groups with a limit: how many steps execute at once, whoever says that they do (MISSION S13)."""

from __future__ import annotations

from stepwire_engine.core.admission import Admission
from stepwire_engine.core.model import Step
from tests.core.given import given, group, plan


class Places:
    """The admission of one group of three branches that may execute `limit` steps at once."""

    def __init__(self, limit: int, *, inside: int = 0) -> None:
        nested = (group("g/[0]/h", 3, limit=inside),) if inside else ()
        scope = "g/[0]/h" if inside else "g"
        self.paths = [f"{scope}/[{branch}]/s" for branch in range(3)]
        self.run = given(plan(*self.paths, groups=(group("g", 3, limit=limit), *nested))).run
        self.again: list[Step] = []
        self.admission = Admission(self.again.append)

    @property
    def steps(self) -> list[Step]:
        return [self.run.steps[path] for path in self.paths]

    def executing(self) -> list[int]:
        return [found.executing for found in self.run.groups.values()]


def test_a_step_without_a_place_waits_and_is_told_in_order_of_planning() -> None:
    places = Places(1)
    first, second, third = places.steps
    assert places.admission.admit(first)
    assert not places.admission.admit(third) and not places.admission.admit(second)
    places.admission.retire(first)
    assert places.again[0] is second and not second.waits_for_group


def test_a_step_that_is_given_out_again_keeps_its_place() -> None:
    places = Places(1)
    first, second, _ = places.steps
    assert places.admission.admit(first) and not places.admission.admit(second)
    assert places.admission.admit(first)
    assert places.executing() == [1] and places.again == []


def test_of_more_than_may_execute_only_so_many_are_given_out_again() -> None:
    """A host came back with an attempt that had ended, and the one that got its place: the end was never stored."""
    places = Places(1)
    ended, other, _ = places.steps
    places.admission.count(ended)
    places.admission.count(other)
    assert places.executing() == [2]
    assert not places.admission.admit(ended)
    assert ended.waits_for_group and places.executing() == [1]
    assert places.admission.admit(other)
    assert places.executing() == [1]
    places.admission.retire(other)
    assert places.again == [ended]


def test_a_place_around_the_group_that_is_full_goes_to_the_next() -> None:
    places = Places(3, inside=1)
    ended, other, third = places.steps
    places.admission.count(ended)
    places.admission.count(other)
    assert not places.admission.admit(ended) and not places.admission.admit(third)
    assert places.executing() == [1, 1]
    assert places.admission.admit(other) and places.executing() == [1, 1]
