"""Threads of a host: one for each live branch of a sync flow, and a bounded number for sync steps.

A branch that had to wait for a thread could stall the WAIT wave of the very branches that hold the threads.
So nothing of a branch waits: threads are made on demand, kept for reuse, and a group that would need more than
the bound is refused at the call, before anything of it is planned (docs/adr/0007). Steps may wait: the engine
counts slots. All are daemons: code that does not stop must not keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger("stepwire.host")

Work = Callable[[], bool]
"""What a thread does. It returns False if its thread was given up meanwhile."""


class StepThreads:
    """A pool that grows on demand up to `bound` threads, and by one more for each that is given up.

    Args:
        bound: Most threads that take work.
        more: Asked by a thread that has done its work, for more that only needs a thread; None: there is none.
    """

    def __init__(self, bound: int, more: Callable[[], Work | None] = lambda: None) -> None:
        self.bound = bound
        self._more = more
        self._lock = threading.Lock()
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._count = 0
        self._made = 0
        self._idle = 0
        self._queued = 0
        self._refused = False
        self._closed = False

    @property
    def count(self) -> int:
        """Threads that take work; those given up are none of them."""
        return self._count

    @property
    def queued(self) -> int:
        """Work that waits for a thread."""
        return self._queued

    def start(self, work: Work) -> None:
        """Run `work` on a thread, when one is free.

        Raises:
            RuntimeError: There is no thread, and the system makes none.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._count >= self.bound or not self._new_thread():
                if not self._count:
                    raise RuntimeError("the system gives this process no thread for a sync step")
                self._queued += 1
        self._work.put(work)

    def give_up(self) -> None:
        """A thread does not come back from its work: another one may take its place."""
        with self._lock:
            self._count -= 1
            if self._queued and not self._closed and self._new_thread():
                self._queued -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end with their work and with what is queued."""
        with self._lock:
            self._closed = True
            count = self._count
        for _ in range(count):
            self._work.put(None)

    def _new_thread(self) -> bool:
        """Make one more. False if the system makes none, so that what waits is left to those that there are."""
        thread = threading.Thread(target=self._loop, name=f"stepwire-step-{self._made + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._refused:
                self._refused = True
                logger.warning(
                    "the system gives this process no more threads: sync steps share the %d there are; "
                    "raise its limit of tasks, or lower Host(slots=)",
                    self._count,
                )
            return False
        self._count += 1
        self._made += 1
        self._refused = False
        return True

    def _loop(self) -> None:
        work = self._work.get()
        while work is not None:
            if not _done(work):
                return
            work = None  # It may be long until there is more.
            work = self._next()

    def _next(self) -> Work | None:
        """What a thread does that has done its work: first what waits for any thread. None: it ends."""
        if not self._is_for_queued():
            if not self._closed and (work := self._asked()) is not None:
                return work
            with self._lock:
                if self._queued:
                    self._queued -= 1
                else:
                    self._idle += 1
        return self._work.get()

    def _is_for_queued(self) -> bool:
        with self._lock:
            if not self._queued:
                return False
            self._queued -= 1
            return True

    def _asked(self) -> Work | None:
        try:
            return self._more()
        except Exception:
            logger.exception("a step could not be begun")
            return None


def _done(work: Work) -> bool:
    """Do it. False: the thread was given up meanwhile."""
    try:
        return work()
    except Exception:
        # Not of user code, whose errors are outcomes: a defect, and the other steps need this thread.
        logger.exception("a step could not tell its outcome")
        return True


class BranchThreads:
    """A pool that grows on demand up to `bound` threads, by one more for each that is given up, and never queues.

    Args:
        bound: Most threads that count as busy.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._lock = threading.Lock()
        self._idle: deque[_Worker] = deque()
        self._of: dict[object, int] = {}
        self._busy = 0
        self._count = 0
        self._closed = False

    @property
    def busy(self) -> int:
        return self._busy

    def has_room(self, count: int) -> bool:
        """Whether `count` more branches may run now."""
        return self._busy + count <= self.bound

    def start(self, owner: object, work: Callable[[], Callable[[], None]]) -> None:
        """Run `work` on a thread of its own, at once.

        Args:
            owner: The body whose code it is.
            work: Returns what tells of its end. That is called once the thread counts as free: who hears it may
                need one.
        """
        with self._lock:
            self._busy += 1
            self._of[owner] = self._of.get(owner, 0) + 1
            worker = self._idle.popleft() if self._idle else None
            if worker is None:
                self._count += 1
                worker = _Worker(self, f"stepwire-branch-{self._count}")
        worker.run(owner, work)

    def give_up(self, owner: object) -> None:
        """The body is gone, and its code has been stopped: it may take its time, but the next life is not refused."""
        with self._lock:
            self._busy -= self._of.pop(owner, 0)

    def close(self) -> None:
        """Let idle threads end; busy ones end with their work."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
        for worker in idle:
            worker.run(None, None)

    def done(self, worker: _Worker, owner: object) -> bool:
        """A worker finished its work. False: it must end."""
        with self._lock:
            left = self._of.get(owner, 0) - 1
            if left >= 0:
                self._busy -= 1
                self._of[owner] = left
            if not left:
                del self._of[owner]
            if self._closed:
                return False
            self._idle.append(worker)
            return True


class _Worker:
    def __init__(self, pool: BranchThreads, name: str) -> None:
        self._pool = pool
        self._wake = threading.Semaphore(0)
        self._owner: object = None
        self._work: Callable[[], Callable[[], None]] | None = None
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def run(self, owner: object, work: Callable[[], Callable[[], None]] | None) -> None:
        self._owner = owner
        self._work = work
        self._wake.release()

    def _loop(self) -> None:
        while True:
            self._wake.acquire()
            owner, work = self._owner, self._work
            self._owner = self._work = None
            if work is None:
                return
            tell = work()
            stays = self._pool.done(self, owner)
            tell()
            if not stays:
                return
            del owner, work, tell  # It may be long until this thread gets other work.
