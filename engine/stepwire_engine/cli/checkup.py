"""What `stepwire doctor` finds, as values, and the checks of the place: Python, packages, limits, disk, clock.

A check looks and says what it saw; it changes nothing.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import platform
import resource
import shutil
import sqlite3
import sys
from collections.abc import Iterator

import msgspec

from stepwire_engine.config import Config
from stepwire_engine.store.sqlite_connection import LIBRARY_MIN

DISK_FREE_LOW = 1024**3
DISK_FREE_NONE = 64 * 1024**2
FILES_BESIDE_HOSTS = 64
"""Files that an engine needs open besides one connection per host."""
PYTHON_MIN = (3, 11)
PACKAGES = ("stepwire", "grpcio", "protobuf", "msgspec")
DOCTOR_SCHEMA = "stepwire.doctor/v1"


class Status(enum.StrEnum):
    """How it is with one thing."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was looked at.

    Attributes:
        check: What was looked at, one word.
        what: What was seen, one line.
        why: Why that matters.
        next: What to do about it.
    """

    check: str
    status: Status
    what: str
    why: str = ""
    next: str = ""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `-o json`."""

    schema: str = DOCTOR_SCHEMA
    ok: bool
    findings: tuple[Finding, ...]


def ok(check: str, what: str) -> Finding:
    return Finding(check=check, status=Status.OK, what=what)


def warn(check: str, what: str, why: str, following: str) -> Finding:
    return Finding(check=check, status=Status.WARN, what=what, why=why, next=following)


def fail(check: str, what: str, why: str, following: str) -> Finding:
    return Finding(check=check, status=Status.FAIL, what=what, why=why, next=following)


def size_text(size: int) -> str:
    """A size for people."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def check_place(config: Config) -> Iterator[Finding]:
    """What the engine would run on."""
    yield _python()
    yield _packages()
    yield _sqlite()
    yield _event_loop(config)
    yield _files(config)


def _python() -> Finding:
    seen = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return fail("python", seen, f"stepwire needs {wanted}", f"install Python {wanted} or newer")
    return ok("python", seen)


def _packages() -> Finding:
    seen = []
    for name in PACKAGES:
        try:
            seen.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            seen.append(f"{name} from source")
    return ok("packages", ", ".join(seen))


def _sqlite() -> Finding:
    db = sqlite3.connect(":memory:")
    options = {option for (option,) in db.execute("PRAGMA compile_options")}
    db.close()
    seen = f"SQLite {sqlite3.sqlite_version} ({', '.join(sorted(options & _TOLD)) or 'no special options'})"
    if sqlite3.sqlite_version_info < LIBRARY_MIN:
        wanted = ".".join(map(str, LIBRARY_MIN))
        return fail("sqlite", seen, f"the engine needs SQLite {wanted}", "use a Python with a newer SQLite")
    if wrong := sorted(options & _WRONG):
        return fail("sqlite", seen, f"it was built with {', '.join(wrong)}", "use a Python with another SQLite")
    return ok("sqlite", seen)


_WRONG = {"THREADSAFE=0", "OMIT_WAL", "OMIT_INTEGRITY_CHECK", "OMIT_AUTOVACUUM"}
_TOLD = {*_WRONG, "THREADSAFE=1", "THREADSAFE=2", "DEFAULT_SYNCHRONOUS=2", "DEFAULT_WAL_SYNCHRONOUS=1"}


def _event_loop(config: Config) -> Finding:
    try:
        found = importlib.metadata.version("uvloop")
    except importlib.metadata.PackageNotFoundError:
        if config.event_loop == "uvloop":
            why = "the configuration asks for the event loop uvloop"
            return fail("loop", "uvloop is not installed", why, "pip install 'stepwire[uvloop]'")
        return ok("loop", "asyncio; uvloop is not installed")
    if config.event_loop == "asyncio":
        return ok("loop", f"asyncio, as configured; uvloop {found} is installed")
    return ok("loop", f"uvloop {found}")


def _files(config: Config) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.sessions_max + FILES_BESIDE_HOSTS
    seen = f"ulimit -n is {'unlimited' if soft == resource.RLIM_INFINITY else soft}"
    if soft != resource.RLIM_INFINITY and soft < needed:
        why = f"{config.sessions_max} hosts (sessions.max) need {needed} open files"
        return warn("files", seen, why, f"start the engine with ulimit -n {needed} or more")
    return ok("files", seen)


def check_disk(directory: str) -> Finding:
    """Whether there is space for the database to grow."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return fail("disk", f"{directory}: {error.strerror}", "the engine keeps its database there", "create it")
    inodes = os.statvfs(directory).f_favail
    seen = f"{size_text(free)} free in {directory}"
    if free < DISK_FREE_NONE or inodes == 0:
        why = "the engine refuses everything while the disk is full"
        return fail("disk", seen, why, "make room; a running engine notices that by itself")
    if free < DISK_FREE_LOW:
        return warn("disk", seen, "a full disk stops all runs", "make room before it is full")
    return ok("disk", seen)
