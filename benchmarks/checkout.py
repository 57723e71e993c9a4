"""A tree of this project whose engine and SDK are measured: this one, and with `--against` another one beside it.

Flows, load and judgement are always those of this tree; only what is imported as `stepwire` and `stepwire_engine` by
engine and host comes from the other one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lines import Subject

ROOT = Path(__file__).resolve().parents[1]
OWN = "stepwire"
"""Subject of the tree that holds these benchmarks."""
PINNED = "pinned"
"""The same with its engine on the first core and its hosts on the second."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A tree with `engine/` and `python_sdk/`.

    Attributes:
        event_loop: What STEPWIRE_EVENT_LOOP says to its engine and hosts; empty: nothing.
        cores: Of its engine, and of its hosts; None: the system puts them where it likes.
    """

    name: str
    root: Path
    event_loop: str = ""
    cores: tuple[int, int] | None = None

    @property
    def engine_core(self) -> int | None:
        """Where its engine runs; None: anywhere."""
        return self.cores[0] if self.cores else None

    @property
    def host_core(self) -> int | None:
        """The same of its hosts."""
        return self.cores[1] if self.cores else None

    @property
    def python(self) -> str:
        """Its own environment's interpreter if it has one, so that other versions of libraries can be compared."""
        own = self.root / ".venv" / "bin" / "python"
        return str(own) if own.exists() and self.root != ROOT else sys.executable

    def command(self, module: str, *arguments: str) -> list[str]:
        """`python -m module`."""
        return [self.python, "-m", module, *arguments]

    def environment(self) -> dict[str, str]:
        """Its packages first, then these benchmarks; no settings of Stepwire's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPWIRE_")}
        places: Sequence[Path] = (self.root / "engine", self.root / "python_sdk", ROOT)
        chosen = {"STEPWIRE_EVENT_LOOP": self.event_loop} if self.event_loop else {}
        return {**kept, **chosen, "PYTHONPATH": os.pathsep.join(map(str, places))}

    def subject(self) -> Subject:
        """What the lines say of it."""
        return Subject(
            name=self.name,
            version=_commit(self.root),
            topology="engine process, host process over one gRPC stream, client process over gRPC"
            + (", engine and host each on a core of its own" if self.cores else ""),
            durability="SQLite WAL, synchronous=FULL, group commit: committed before anything is released",
        )


def own(event_loop: str = "") -> Checkout:
    """This tree."""
    return Checkout(OWN, ROOT, event_loop)


def pinned(event_loop: str = "") -> Checkout:
    """This tree, its engine and its hosts each on a core of its own, as with `taskset` or systemd's CPUAffinity.

    Raises:
        ValueError: there are not two cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError("--pinned needs two cores")
    return Checkout(PINNED, ROOT, event_loop, (cores[0], cores[1]))


def other(root: Path, event_loop: str = "") -> Checkout:
    """Another tree, as a subject of its own.

    Raises:
        ValueError: it is none of this project's.
    """
    root = root.resolve()
    if not (root / "engine" / "stepwire_engine").is_dir() or not (root / "python_sdk" / "stepwire").is_dir():
        raise ValueError(f"{root} has no engine/stepwire_engine and python_sdk/stepwire: name a checkout of Stepwire")
    return Checkout("against", root, event_loop)


def _commit(root: Path) -> str:
    """Short commit, with a + if files differ from it; the folder's name if it is no repository."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        state = subprocess.run(
            [*git, "status", "--porcelain", "--", "engine", "python_sdk"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return root.name
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")
