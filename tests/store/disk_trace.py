"""What a process wrote to its database and when it synced, as strace saw it; and the files that a power cut leaves.

What was synced is on the disk. Of what was written since, a disk may have kept nothing, everything, or any sectors.
The same goes for names: a file that was made or removed since the directory was synced may be missing, or there again.
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
DIRECTORY = "/"
"""Stands for the directory of the database among the names."""
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
    """Run a command and note what it does to `database`, its logs and its directory, and what it prints, in order."""
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
    names = {_escaped(f"{database}{end}"): end for end in ("", "-wal", "-journal")}
    names[_escaped(str(database.parent))] = DIRECTORY
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


@dataclass(eq=False)
class File:
    """What of a file is certain, and what was done to it since it was synced."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Write | Cut] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.since:
            _apply(self.synced, change)
        self.since.clear()

    def after_power_cut(self, rng: random.Random | None) -> bytes:
        content = bytearray(self.synced)
        if rng is not None:
            for part in [part for change in self.since for part in _sectors(change)]:
                if rng.random() < 0.5:
                    _apply(content, part)
        return bytes(content)


@dataclass
class Disk:
    """The files of a database.

    Attributes:
        files: By name, as the process sees them.
        listed: By name, as they were when the directory was synced.
        said: What the process had printed.
    """

    files: dict[str, File] = field(default_factory=dict)
    listed: dict[str, File] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case Said(text):
                self.said.append(text)
            case Removed(name):
                self.files.pop(name, None)
            case Synced(name) if name == DIRECTORY:
                self.listed = dict(self.files)
            case Synced(name):
                self.files.setdefault(name, File()).sync()
            case Write(name=name) | Cut(name=name):
                self.files.setdefault(name, File()).since.append(event)

    def after_power_cut(self, rng: random.Random | None) -> dict[str, bytes]:
        """The files as they are found: without anything unsynced, or with any names and any sectors of it."""
        found = {}
        for name in sorted(self.files.keys() | self.listed.keys()):
            which = self.listed if rng is None or rng.random() < 0.5 else self.files
            if (file := which.get(name)) is not None:
                found[name] = file.after_power_cut(rng)
        return found


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
