"""What a process wrote to its database and when it synced, as strace saw it; and the files that a power cut leaves.

What was synced is on the disk. Of what was written since, a disk may have kept nothing, everything, or any sectors.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
_CALLS = "pwrite64,write,ftruncate,fdatasync,fsync,unlink,unlinkat"
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Write(NamedTuple):
    name: str
    offset: int
    data: bytes


class Cut(NamedTuple):
    """The file was truncated."""

    name: str
    size: int


class Synced(NamedTuple):
    name: str


class Removed(NamedTuple):
    name: str


class Said(NamedTuple):
    """The process printed this."""

    text: str


Event = Write | Cut | Synced | Removed | Said


def record(command: Sequence[str], database: Path, trace: Path, environment: dict[str, str]) -> list[Event]:
    """Run a command and note what it does to `database` and its log, and what it prints, in order."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={_CALLS}", "-o", str(trace)]
    subprocess.run([*strace, *command], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
    return list(_events(_whole_lines(trace), database))


def _whole_lines(trace: Path) -> Iterator[str]:
    """Lines of the trace; a call that another thread interrupted counts when it returned."""
    begun: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            if (found := _UNFINISHED.match(line.rstrip("\n"))) is not None:
                begun[found[1]] = found[2]
            elif (found := _RESUMED.match(line.rstrip("\n"))) is not None:
                yield f"{found[1]} {begun.pop(found[1])}{found[3]}"
            else:
                yield line


def _events(lines: Iterator[str], database: Path) -> Iterator[Event]:
    names = {"".join(f"\\x{byte:02x}" for byte in str(database).encode()) + _escaped(end): end for end in ("", "-wal")}
    for line in lines:
        found = _LINE.match(line)
        if found is None or int(found[3]) < 0:
            continue
        call, arguments = found[1], found[2]
        if call == "write" and arguments.startswith("1<"):
            yield Said(_content(arguments).decode())
            continue
        place = re.search(r"<((?:\\x[0-9a-f]{2})+)>", arguments) or _BYTES.search(arguments)
        if place is None or place[1] not in names:
            continue
        name = names[place[1]]
        match call:
            case "pwrite64":
                yield Write(name, int(arguments.rsplit(", ", 1)[1]), _content(arguments))
            case "ftruncate":
                yield Cut(name, int(arguments.rsplit(", ", 1)[1]))
            case "fdatasync" | "fsync":
                yield Synced(name)
            case "unlink" | "unlinkat":
                yield Removed(name)
            case _:
                raise AssertionError(f"the model of the disk does not know this: {line[:200]}")


def _escaped(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def _content(arguments: str) -> bytes:
    found = _BYTES.search(arguments)
    assert found is not None, arguments[:100]
    return bytes.fromhex(found[1].replace("\\x", ""))


@dataclass
class Disk:
    """The files of a database, and what of them is certain.

    Attributes:
        synced: Content by name.
        since: What was done to each file since its last sync.
        said: What the process had printed.
    """

    synced: dict[str, bytearray] = field(default_factory=dict)
    since: dict[str, list[Write | Cut]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case Said(text):
                self.said.append(text)
            case Removed(name):
                self.synced.pop(name, None)
                self.since.pop(name, None)
            case Synced(name):
                content = self.synced.setdefault(name, bytearray())
                for change in self.since.pop(name, []):
                    _apply(content, change)
            case Write(name=name) | Cut(name=name):
                self.since.setdefault(name, []).append(event)

    def after_power_cut(self, rng: random.Random | None) -> dict[str, bytes]:
        """The files as they are found: without anything unsynced, or with any sectors of it."""
        names = self.synced.keys() | self.since.keys()
        files = {name: bytearray(self.synced.get(name, b"")) for name in names}
        if rng is not None:
            for name, changes in self.since.items():
                for change in changes:
                    for part in _sectors(change):
                        if rng.random() < 0.5:
                            _apply(files[name], part)
        return {name: bytes(content) for name, content in files.items()}


def _sectors(change: Write | Cut) -> Iterator[Write | Cut]:
    if isinstance(change, Cut):
        yield change
        return
    begin = change.offset
    end = begin + len(change.data)
    while begin < end:
        border = min(end, (begin // SECTOR + 1) * SECTOR)
        yield Write(change.name, begin, change.data[begin - change.offset : border - change.offset])
        begin = border


def _apply(content: bytearray, change: Write | Cut) -> None:
    match change:
        case Cut(_, size):
            if size < len(content):
                del content[size:]
            else:
                content.extend(bytes(size - len(content)))
        case Write(_, offset, data):
            if offset > len(content):
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data
