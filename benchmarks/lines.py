"""The JSON lines: one object per line, told apart by `line`. Written while measuring, read by every report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import check


class Session(msgspec.Struct, kw_only=True, tag="session", tag_field="line", forbid_unknown_fields=True):
    """First line: when and where.

    Attributes:
        date: Day it began, ISO 8601.
        machine: What every figure depends on, by name: cores, processor, memory, kernel, Python, SQLite, libraries.
        file_system: Of the databases.
        repeat: Rounds.
        patience: Seconds that each measurement waited for calm cores at most.
        scale: 1.0 unless sizes were changed for a try.
    """

    date: str
    machine: dict[str, str]
    file_system: str
    repeat: int
    patience: float = 0.0
    scale: float = 1.0


class Subject(msgspec.Struct, kw_only=True, tag="subject", tag_field="line", forbid_unknown_fields=True):
    """What is measured: a checkout of this project, or a peer.

    Attributes:
        version: Of what runs; of a checkout its commit.
        topology: Which processes there are, and what travels between them.
        durability: What a step's outcome has survived when the next step sees it.
    """

    name: str
    version: str
    topology: str
    durability: str


class Measurement(msgspec.Struct, kw_only=True, tag="measurement", tag_field="line", forbid_unknown_fields=True):
    """One measurement.

    Attributes:
        round: 1 is the first.
        size: Steps of a run, for a point of a curve; 0: the workload has one size.
        figures: By name, see `figures.FIGURES`.
    """

    workload: str
    subject: str
    round: int
    figures: dict[str, float]
    size: int = 0

    def __post_init__(self) -> None:
        check(self.figures)


class Skipped(msgspec.Struct, kw_only=True, tag="skipped", tag_field="line", forbid_unknown_fields=True):
    """What was asked for and not measured; no `workload`: none of them."""

    subject: str
    reason: str
    workload: str = ""

    @property
    def text(self) -> str:
        """For people: of a long reason, such as the end of a log, the last line."""
        what = f"{self.subject} {self.workload}".rstrip()
        return f"{what}: {self.reason.rstrip().rpartition(chr(10))[2]}"


Line = Session | Subject | Measurement | Skipped

_decoder = msgspec.json.Decoder(Line)


def encode(line: Line) -> str:
    """One line without its end; figures have six significant digits."""
    document: dict[str, Any] = msgspec.to_builtins(line)
    if isinstance(line, Measurement):
        document["figures"] = {name: float(f"{value:.6g}") for name, value in line.figures.items()}
    return msgspec.json.encode(document).decode()


def decode(text: Iterable[str]) -> Iterator[Line]:
    """Lines of a file.

    Raises:
        ValueError: a line is not of the schema; the message has its number.
    """
    for number, line in enumerate(text, 1):
        try:
            yield _decoder.decode(line)
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from error


def read(path: Path) -> list[Line]:
    """A file of lines. Raises ValueError, OSError."""
    with path.open(encoding="utf-8") as text:
        return list(decode(text))
