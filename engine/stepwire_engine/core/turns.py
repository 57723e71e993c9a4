"""Queues that take turns, so that whoever has much to do keeps nobody else from the hosts that both need.

Round robin: the queue that was served goes to the end of the order, and one that was empty begins there. So whoever is
first in a queue is passed by every other queue at most once. Who may be served, and by whom, is not decided here.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


class Turns(Generic[Key, Item]):
    """Queues by key; within each the first comes first.

    Args:
        waits: Whether an item still waits. One that does not is passed over, and is in no queue any more.

    Attributes:
        queues: None of them is empty. In the order of their turns; only this class may change them.
        _given_up: How many in a queue are known to wait no more.
    """

    def __init__(self, waits: Callable[[Item], bool]) -> None:
        self._waits = waits
        self.queues: OrderedDict[Key, deque[Item]] = OrderedDict()
        self._given_up: Counter[Key] = Counter()

    def add(self, key: Key, item: Item) -> bool:
        """Put it at the end of its queue. False: others are in that queue already."""
        queue = self.queues.get(key)
        if queue is not None:
            queue.append(item)
            return False
        self.queues[key] = deque((item,))
        return True

    def head(self, key: Key) -> Item | None:
        """The first that waits in this queue. The queue keeps its turn."""
        queue = self.queues.get(key)
        while queue:
            item = queue[0]
            if self._waits(item):
                return item
            queue.popleft()
        if queue is not None:
            self._remove(key)
        return None

    def take(self, key: Key) -> Item:
        """Take what `head` has found. That was the queue's turn: all others have theirs before its next one."""
        queue = self.queues[key]
        item = queue.popleft()
        if queue:
            self.queues.move_to_end(key)
        else:
            self._remove(key)
        return item

    def give_up(self, key: Key) -> None:
        """One more in this queue waits no more. It must not stay in memory until its turn comes, perhaps never."""
        queue = self.queues.get(key)
        if queue is None:
            return
        self._given_up[key] += 1
        if 2 * self._given_up[key] <= len(queue):
            return
        self._given_up[key] = 0
        left = [item for item in queue if self._waits(item)]
        if left:
            self.queues[key] = deque(left)
        else:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        del self.queues[key]
        if self._given_up:
            self._given_up.pop(key, None)
