"""Limits of groups: how many attempts in a group execute at once, nested groups included (MISSION S13, O11).

A step executes only with a place in every group with a limit around it. Places are never journaled: who has one follows
from leases, and after a restart from what hosts still hold. Which host executes a step is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from stepwire_engine.core.model import Step


class Admission:
    """Gives places to steps, in order of planning, and takes them back.

    Args:
        again: Told a step that waited for a place and may find one now.
    """

    def __init__(self, again: Callable[[Step], None]) -> None:
        self._again = again

    def admit(self, step: Step) -> bool:
        """Whether the step has its places now; if a group has none it waits there."""
        if not step.scope.limits:
            return True
        if step.admitted:
            if all([group.executing <= group.opened.limit for group in step.scope.limits]):
                return True
            self.retire(step)  # Hosts had more than may execute at once; what is given out anew keeps to the limit.
        if step.waits_for_group or step.run.uncertain:
            return False  # While hosts are awaited nobody knows how many places are taken.
        for group in step.scope.limits:
            if group.executing >= group.opened.limit:
                heappush(group.waiting, (step.order, step))
                step.waits_for_group = True
                return False
        self.count(step)
        return True

    def count(self, step: Step) -> None:
        """The step executes, with or without having been told to: it takes its places, free or not."""
        if step.scope.limits and not step.admitted:
            step.admitted = True
            for group in step.scope.limits:
                group.executing += 1

    def retire(self, step: Step) -> None:
        """The step executes no more: its places go to those that wait for them."""
        if not step.admitted:
            return
        step.admitted = False
        for group in step.scope.limits:
            group.executing -= 1
        for group in step.scope.limits:
            while group.waiting and group.executing < group.opened.limit:
                _, waiting = heappop(group.waiting)
                waiting.waits_for_group = False
                self._again(waiting)
