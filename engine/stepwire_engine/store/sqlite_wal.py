"""What SQLite does not say about its write-ahead log: that a damaged frame hides commits, and how long the log is.

SQLite takes the first frame that does not fit as the end of the log, because that is what a power cut leaves. A bit
that flipped in the middle looks the same to it, and acknowledged commits behind it would be gone without a word. So
the log is read before SQLite opens it. Nothing here writes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from stepwire_engine.store.rows import Damaged

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_LITTLE_ENDIAN, _BIG_ENDIAN = 0x377F0682, 0x377F0683
_MASK = 0xFFFFFFFF
_SECTOR = 512
"""The least that a disk writes whole."""
Checksum = tuple[int, int]


class Frame(NamedTuple):
    """One page in the log.

    Attributes:
        commits: It is the last one of a transaction.
        surely: `commits` cannot be left from what stood here before: no two sectors of a disk share it and the salts.
        stored: The checksum that was written with it.
        words: What the checksum is over.
    """

    commits: bool
    surely: bool
    salts: tuple[int, int]
    stored: Checksum
    words: bytes


def wal_path(database: str) -> str:
    """Where SQLite keeps the log of a database."""
    return database + "-wal"


def check_log(database: str) -> None:
    """Read the log of a database that nobody has open.

    The last transaction may be incomplete: that is a power cut, and it was never acknowledged. Damage in the last
    transaction looks like that and is not told from it.

    Raises:
        Damaged: a frame does not fit, and a later transaction does: that one was committed, and SQLite would drop it.
        OSError: it cannot be read.
    """
    try:
        file = open(wal_path(database), "rb")  # SQLite has no lock on the log that closing it would drop.
    except FileNotFoundError:
        return
    with file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.strip(b"\0"):
            return  # The first write of the file did not reach the disk.
        magic, _, page_bytes, _, *salts, first, second = _HEADER.unpack(header)
        order = {_LITTLE_ENDIAN: "<", _BIG_ENDIAN: ">"}.get(magic, "")
        if not order or checksum((0, 0), header[:24], order) != (first, second):
            if file.read(1):
                raise Damaged("the header of its -wal file is damaged, and all commits in it would be lost")
            return
        if not 512 <= page_bytes <= 65536:
            raise Damaged(f"its -wal file has pages of {page_bytes} bytes")
        present = (salts[0], salts[1])
        _check_frames(_without_old(_frames(file, page_bytes), present), present, (first, second), order)


def _frames(file: BinaryIO, page_bytes: int) -> Iterator[Frame]:
    size = _FRAME.size + page_bytes
    place = _HEADER.size
    while len(data := file.read(size)) == size:
        _, pages, *numbers = _FRAME.unpack_from(data)
        surely = pages != 0 and (place + 8) % _SECTOR != 0
        salts, stored = (numbers[0], numbers[1]), (numbers[2], numbers[3])
        yield Frame(pages != 0, surely, salts, stored, data[:8] + data[_FRAME.size :])
        place += size


def _without_old(frames: Iterator[Frame], salts: tuple[int, int]) -> Iterator[Frame]:
    """The frames up to where a former use of the log shows; a single foreign one between ours is a damaged one."""
    foreign: Frame | None = None
    for frame in frames:
        if frame.salts == salts:
            if foreign is not None:
                yield foreign
                foreign = None
            yield frame
        elif foreign is None:
            foreign = frame
        else:
            return


def _check_frames(frames: Iterator[Frame], salts: tuple[int, int], chain: Checksum, order: str) -> None:
    """Raise Damaged if more than one transaction ends at or behind the first frame that does not fit."""
    chains = {chain}
    broken = ends = 0
    for number, frame in enumerate(frames, start=1):
        computed = {checksum(start, frame.words, order) for start in chains}
        if frame.stored in computed and frame.salts == salts:
            chains = {frame.stored}
            ends += bool(broken) and frame.commits
        elif broken:
            return  # Left behind by a transaction that did not fit on the disk.
        else:
            broken = number
            # If its content is damaged, the next frame continues what is stored; otherwise what is computed.
            chains = {frame.stored, *computed}
            ends += frame.surely
        if ends > 1:
            raise Damaged(f"frame {broken} of its -wal file is damaged, and commits behind it would be lost")


def checksum(start: Checksum, data: bytes, order: str) -> Checksum:
    """SQLite's checksum of the log, over `data` of 8 bytes or a multiple, continued from `start`."""
    first, second = start
    for one, two in struct.iter_unpack(order + "II", data):
        first = (first + one + second) & _MASK
        second = (second + two + first) & _MASK
    return first, second


class LogLength:
    """Whether the log of an open database has reached a length, without asking SQLite.

    Used on one thread. The log is recycled: its file keeps its size, so its length shows only in the salts of frames.
    """

    def __init__(self, database: str) -> None:
        self._path = wal_path(database)
        self._fd: int | None = None

    def has(self, frames: int) -> bool:
        """Whether this use of the log has at least so many frames. Raises OSError."""
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        header = os.pread(self._fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return False
        page_bytes = _HEADER.unpack(header)[2]
        place = _HEADER.size + (frames - 1) * (_FRAME.size + page_bytes)
        return os.pread(self._fd, 8, place + 8) == header[16:24]

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
