"""Threads for sync flows: one for each branch that is live, so that its code is entered once (DESIGN 6).

A branch that had to wait for a thread could stall the WAIT wave of the very branches that hold the threads.
So nothing waits: threads are made on demand, kept for reuse, and a group that would need more than the
bound is refused at the call, before anything of it is planned (docs/adr/0007).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class BranchThreads:
    """A pool that grows on demand up to `bound` threads and never queues.

    Args:
        bound: Most threads at once.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._lock = threading.Lock()
        self._idle: deque[_Worker] = deque()
        self._busy = 0
        self._count = 0
        self._closed = False

    @property
    def busy(self) -> int:
        return self._busy

    def has_room(self, count: int) -> bool:
        """Whether `count` more branches may run now."""
        return self._busy + count <= self.bound

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own, at once."""
        with self._lock:
            self._busy += 1
            worker = self._idle.popleft() if self._idle else None
            if worker is None:
                self._count += 1
                worker = _Worker(self, f"stepwire-branch-{self._count}")
        worker.run(work)

    def close(self) -> None:
        """Let idle threads end; busy ones end with their work."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
        for worker in idle:
            worker.run(None)

    def done(self, worker: _Worker) -> bool:
        """A worker finished its work. False: it must end."""
        with self._lock:
            self._busy -= 1
            if self._closed:
                return False
            self._idle.append(worker)
            return True


class _Worker:
    def __init__(self, pool: BranchThreads, name: str) -> None:
        self._pool = pool
        self._wake = threading.Semaphore(0)
        self._work: Callable[[], None] | None = None
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def run(self, work: Callable[[], None] | None) -> None:
        self._work = work
        self._wake.release()

    def _loop(self) -> None:
        while True:
            self._wake.acquire()
            work, self._work = self._work, None
            if work is None:
                return
            work()
            if not self._pool.done(self):
                return
