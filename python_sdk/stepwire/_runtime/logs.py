"""Log records of user code: whose they are, which of them repeat a former life, and what goes to the engine.

Every record is told the run, step and attempt that its code belongs to, for every logger and handler. Code of a flow
that is being replayed says nothing: it said so before. This module configures no logging, and a log line is never
worth a failed step: what cannot be sent is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from stepwire import _tracing
from stepwire._runtime.scope import PLACE, AttemptInfo, scope_here
from stepwire._transport.log_queue import LINE_BYTES, LogQueue, Waiting
from stepwire.errors import ConfigurationError
from stepwire.protocol import limits
from stepwire.protocol.bounds import cut_text

SILENT = -1
"""Level of a repeated record: below that of every handler there can be, those included that are added later."""
OWN_LOGGER, OWN_PREFIX = "stepwire", "stepwire."


class Origin(NamedTuple):
    """Whose code runs here. A flow's own code has attempt 0, and as step the branch it is in, or nothing."""

    run_id: str
    step: str
    attempt: int
    flow: str


SHIPPER: ContextVar[LogShipper | None] = ContextVar("stepwire_shipper", default=None)
"""Of the host that this code runs on; set once for each host, in the context that its bodies and steps inherit."""


def origin() -> Origin | None:
    """Whose code this is; None: not that of a flow or step."""
    place = PLACE.get()
    if isinstance(place, AttemptInfo):
        return Origin(place.run_id, place.path, place.attempt, getattr(place, "flow", ""))
    return None if place is None else Origin(place.body.run_id, place.path, 0, place.body.flow.name)


def repeating() -> bool:
    """Whether this is code of a flow that does again what it did before, or of a body that was thrown away."""
    scope = scope_here()
    if scope is None:
        return False
    body = scope.body
    if body.undoing or (body.over and not body.ended):
        return True
    if scope.ended:
        return body.journal.repeats
    return body.journal.repeats_in(scope.path, on_loop=body.flow.is_async)


def current_trace_id() -> str:
    """The trace that this code belongs to, as 32 hexadecimal digits; empty: none."""
    return _tracing.current_trace_id()


def host_name() -> str:
    """Name of the host that this code runs on; empty: it is not that of a flow or step."""
    shipper = SHIPPER.get()
    return "" if shipper is None else shipper.host


# ---- on every record

_installing = threading.Lock()
_installed = False


def install() -> None:
    """From now on every record of this process says whose it is. Done once, whoever asks, and never undone.

    It wraps `Logger.makeRecord` and not the record factory: a factory's attributes would make `extra={"step": ...}` of
    code that never heard of Stepwire an error. Here what is given with `extra` wins.
    """
    global _installed
    with _installing:
        if _installed:
            return
        _installed = True
        make = logging.Logger.makeRecord

        def make_record(logger: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(logger, *args, **kwargs)
            _stamp(record.__dict__)
            return record

        logging.Logger.makeRecord = make_record  # type: ignore[assignment,method-assign]


def _is_own(logger: str) -> bool:
    """Stepwire's own lines are nobody's: what it does for a run may happen in a context of that run's code."""
    return logger.startswith(OWN_PREFIX) or logger == OWN_LOGGER


def _stamp(record: dict[str, Any]) -> None:
    found = None if _is_own(record["name"]) else origin()
    put = record.setdefault
    if found is None:
        put("run_id", "")
        put("step", "")
        put("attempt", "")
        put("flow", "")
        put("host", "")
        put("trace_id", "")
        return
    put("run_id", found.run_id)
    put("step", found.step)
    put("attempt", found.attempt)
    put("flow", found.flow)
    put("host", host_name())
    put("trace_id", current_trace_id())
    if repeating():
        record["levelno"] = SILENT


# ---- to the engine


class LogShipper(logging.Handler):
    """Takes what flows and steps of one host log, for the engine. It never blocks and never raises.

    Args:
        host: Name of the host.
        level: Least level that is sent; None: nothing is.
        queue: Where lines wait.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, host: str, level: int | None, queue: LogQueue, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.WARNING if level is None else min(level, logging.WARNING))
        self._least = level or 0
        self.host = host
        self.queue = queue
        self.ships = level is not None
        self._clock = clock
        self._users = 0
        install()

    @property
    def lines(self) -> LogQueue | None:
        """What frames take along; None: it sends nothing."""
        return self.queue if self.ships else None

    def createLock(self) -> None:
        """None: the queue has its own, and code that logs must not wait for another's formatting."""
        self.lock = None

    def attach(self) -> None:
        """The host runs: see what reaches the root logger."""
        if not self.ships:
            return
        with _installing:
            self._users += 1
            if self._users == 1:
                logging.getLogger().addHandler(self)

    def detach(self) -> None:
        """The host does not run any more."""
        if not self.ships:
            return
        with _installing:
            self._users -= 1
            if not self._users:
                logging.getLogger().removeHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take the record along if it is of a flow or step of this host."""
        _stand_in(self, record)
        if not self.ships or SHIPPER.get() is not self or record.levelno < self._least or not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        found = origin()
        if found is None or _is_own(record.name):
            return
        try:
            logger = cut_text(record.name, limits.NAME_BYTES_MAX)
            message = cut_text(text_of(record), limits.LOG_MESSAGE_BYTES_MAX)
        except Exception:
            self.handleError(record)
            return
        size = LINE_BYTES + len(found.step) + len(logger) + (len(message) if message.isascii() else len(message) * 4)
        self.queue.add(
            Waiting(found.run_id, found.step, found.attempt, self._clock(), record.levelno, logger, message, size)
        )


_PLAIN = logging.Formatter()


def text_of(record: logging.LogRecord) -> str:
    """The message, and the traceback and stack if it has them."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{record.exc_text or _PLAIN.formatException(record.exc_info)}"
    return f"{text}\n{record.stack_info}" if record.stack_info else text


def _stand_in(shipper: LogShipper, record: logging.LogRecord) -> None:
    """Where a service has set up no logging, Python prints warnings by itself: that this handler is there must not
    keep it from that."""
    handlers = logging.getLogger().handlers
    if not handlers or handlers[0] is not shipper or not all(isinstance(found, LogShipper) for found in handlers):
        return
    last = logging.lastResort
    if last is not None and record.levelno >= last.level and not _is_handled(record.name):
        last.handle(record)


def _is_handled(name: str) -> bool:
    """Whether a handler of somebody else gets the records of this logger."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, LogShipper) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def level_of(name: str | None) -> int | None:
    """The number of a level. Raises ConfigurationError for an unknown name."""
    if name is None:
        return None
    levels = logging.getLevelNamesMapping()
    if name.upper() not in levels:
        raise ConfigurationError(
            f'ship_logs is the name of a level, as "INFO", or None; not {name!r}', hint=f"one of {', '.join(levels)}"
        )
    return levels[name.upper()]
