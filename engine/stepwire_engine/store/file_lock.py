"""The lock that keeps a second engine away from a database.

It is taken on a file beside the database, never on the database itself: closing any descriptor of that file
would drop the locks SQLite holds on it.
"""

from __future__ import annotations

import fcntl
import os

from stepwire_engine.store.base import StoreError, StoreLocked


class FileLock:
    """An exclusive `flock` on `<database>.lock`, which holds the owner's process id for people to read.

    The file stays behind when the lock is released: removing it would let two engines lock different files.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._path = os.path.realpath(database) + ".lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            StoreLocked: another engine has it; the message names the file and the process.
            StoreError: the lock file cannot be created.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be created ({error.strerror}): the engine must be able to write to the "
                "directory of its database"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = _owner(fd)
            os.close(fd)
            raise StoreLocked(
                f"{self._database} is in use by another engine{owner} (lock file {self._path}): "
                "stop that engine, or start this one with another database"
            ) from None
        except OSError as error:
            os.close(fd)
            raise StoreError(f"{self._path} cannot be locked: {error.strerror}") from error
        self._fd = fd

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _owner(fd: int) -> str:
    try:
        text = os.pread(fd, 32, 0).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f", process {text}" if text.isdigit() else ""
