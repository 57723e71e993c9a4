"""Following a run to its end: views from the engine on a thread, screens, a deadline, and Ctrl-C, which detaches.

The thread exists because waiting for the engine must not keep the screen from moving or the user from leaving.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

import click

from stepwire_engine.cli.documents import Run, StepChange, line, moment
from stepwire_engine.cli.terminal import data, talk
from stepwire_engine.cli.tree import change_line, changed_steps, run_title, tree_lines

TICK_SECONDS = 0.1
VIEWS_QUEUED_MAX = 16
SIBLINGS_MAX = 12
"""Members of one scope that the live tree shows; the record shows all."""
DRAWING_PAUSE = 10
"""Times as long as drawing takes, nothing is drawn again."""

_REASONS_OF_RUNS = frozenset(
    {
        "no_host",
        "no_slot",
        "paused",
        "adoption",
        "attempt_not_stopping",
        "journal_unreadable",
        "host_lagging",
        "host_draining",
        "host_congested",
        "no_body_room",
        "engine_full",
    }
)


class Screen(Protocol):
    """Shows a run while it goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def update(self, run: Run) -> None:
        """The run has changed."""

    def tick(self) -> None:
        """Time has passed."""


def follow(
    watch: Callable[[], Iterator[Run]],
    screen: Screen,
    timeout: float | None,
    mono: Callable[[], float] = time.monotonic,
) -> Run | None:
    """Show a run until its terminal state, and the runs that go on for it.

    Args:
        watch: The run as of now and after each change, until its terminal state, and then those of its successors.
        timeout: Seconds; None: for ever.

    Returns:
        The run in its terminal state; None if `timeout` passed before.

    Raises:
        StepwireError: what `watch` raised.
    """
    deadline = None if timeout is None else mono() + timeout
    views: queue.Queue[Run | BaseException | None] = queue.Queue(VIEWS_QUEUED_MAX)
    threading.Thread(target=_read, args=(watch, views), name="stepwire-watch", daemon=True).start()
    with screen:
        while deadline is None or mono() < deadline:
            try:
                view = views.get(timeout=TICK_SECONDS)
            except queue.Empty:
                screen.tick()
                continue
            if not isinstance(view, Run):
                raise view or AssertionError("the client watches until the run has ended")
            screen.update(view)
            if view.final and not view.successor_run_id:
                return view
    return None


def _read(watch: Callable[[], Iterator[Run]], views: queue.Queue[Run | BaseException | None]) -> None:
    try:
        for view in watch():
            views.put(view)
    except BaseException as error:
        views.put(error)
    else:
        views.put(None)


# ---- screens


class LineScreen:
    """One line for each change, on stderr: for logs and pipes."""

    def __init__(self, unix_ms: Callable[[], int]) -> None:
        self._unix_ms = unix_ms
        self._before: Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def update(self, run: Run) -> None:
        """Say what changed."""
        now_ms = self._unix_ms()
        clock, now = time.strftime("%H:%M:%S", time.localtime(now_ms / 1000)), _moment(now_ms)
        for step in changed_steps(self._before, run):
            talk(change_line(step, clock, now))
        before, self._before = self._before, run
        if before is None or _headline(before) != _headline(run):
            talk(f"{clock}  {click.unstyle(run_title(run, now)).partition(' ')[2]}")

    def tick(self) -> None:
        """Nothing: lines do not move."""


class JsonlScreen(LineScreen):
    """A document for each change of a step, on stdout."""

    def update(self, run: Run) -> None:
        """Print the steps that changed."""
        for step in changed_steps(self._before, run):
            data(line(StepChange(run_id=run.run_id, step=step)))
        self._before = run


class LiveScreen:
    """The tree, drawn again in place, on stderr."""

    def __init__(self, unix_ms: Callable[[], int], *, color: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._unix_ms = unix_ms
        self._run: Run | None = None
        self._next_draw = 0.0
        console = Console(stderr=True, no_color=not color, highlight=False)
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.vertical_overflow = "visible"
        if self._run is not None:
            self._draw(self._run)
        self._live.stop()

    def update(self, run: Run) -> None:
        """Draw the new tree."""
        self._run = run
        self.tick()

    def tick(self) -> None:
        """Let the durations run; large trees more slowly, so that drawing takes a tenth of a processor at most."""
        if self._run is None or time.monotonic() < self._next_draw:
            return
        start = time.monotonic()
        self._draw(self._run)
        end = time.monotonic()
        self._next_draw = end + DRAWING_PAUSE * (end - start)

    def _draw(self, run: Run) -> None:
        from rich.text import Text

        lines = tree_lines(run, _moment(self._unix_ms()), siblings_max=SIBLINGS_MAX)
        self._live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)


def _headline(run: Run) -> tuple[str | None, ...]:
    """What is worth a line of its own: steps say themselves why they wait."""
    return run.run_id, run.state, run.phase, run.reason if run.reason in _REASONS_OF_RUNS else None


def _moment(unix_ms: int) -> datetime:
    found = moment(unix_ms)
    assert found is not None, "the present is not the epoch"
    return found
