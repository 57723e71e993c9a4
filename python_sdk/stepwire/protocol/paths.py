"""Step identity: `path = segment *('/' segment)`, `segment = key ['#' n]` (DESIGN 4, MISSION P11).

Pure functions and one counter. The grammar is normative in `proto/README.md`, with golden vectors in
`tests/protocol/vectors/paths.json`, because every SDK must build the same paths.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from stepwire.protocol.limits import NAME_BYTES_MAX

ROOT = ""
_ESCAPED = frozenset("/#[]%")


class InvalidName(ValueError):
    """A step or group name is empty or longer than 256 bytes when encoded."""


@lru_cache(8192)
def encode_key(name: str) -> str:
    """Percent-encode `/ # [ ] %` and control characters of a name.

    Raises:
        InvalidName: the name is empty, not valid Unicode, or longer than 256 bytes when encoded.
    """
    if name.isascii() and name.isprintable() and _ESCAPED.isdisjoint(name):
        encoded = name
    else:
        encoded = "".join(
            "".join(f"%{b:02X}" for b in ch.encode()) if ch in _ESCAPED or _is_control(ch) else ch
            for ch in _valid_unicode(name)
        )
    if not encoded or len(encoded.encode()) > NAME_BYTES_MAX:
        raise InvalidName(f"a name needs 1..{NAME_BYTES_MAX} bytes when encoded: {name[:80]!r}")
    return encoded


def _valid_unicode(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidName(f"a name must be valid Unicode: {name[:80]!r}") from None
    return name


def _is_control(ch: str) -> bool:
    return ord(ch) < 0x20 or 0x7F <= ord(ch) < 0xA0


def branch_path(group: str, index: int) -> str:
    """Path of branch `index` (from 0) of the group at path `group`."""
    return f"{group}/[{index}]"


@lru_cache(8)
def branch_paths(group: str, branches: int) -> tuple[str, ...]:
    """Paths of all branches of a group. Checking and folding a plan both need them, and so does the next run."""
    return tuple([f"{group}/[{index}]" for index in range(branches)])


def join(scope: str, segment: str) -> str:
    """Path of `segment` inside the scope at path `scope` (empty for the root)."""
    return f"{scope}/{segment}" if scope else segment


def parent(path: str) -> str:
    """The scope a path stands in; empty for the root."""
    return path.rpartition("/")[0]


def branch_index(path: str) -> int:
    """Index of a branch path. Raises ValueError if `path` is not one."""
    segment = path.rpartition("/")[2]
    if not (segment.startswith("[") and segment.endswith("]")):
        raise ValueError(f"not a branch path: {path}")
    return int(segment[1:-1])


UNDO_SUFFIX = "#undo"


def undo_path(path: str) -> str:
    """Path of the compensation of the step at `path`; no name encodes to it."""
    return path + UNDO_SUFFIX


def undone_path(path: str) -> str | None:
    """The step that a compensation at `path` undoes; None if `path` is not one's."""
    return path.removesuffix(UNDO_SUFFIX) if path.endswith(UNDO_SUFFIX) else None


class Occurrences(msgspec.Struct, eq=False):
    """Counts occurrences of keys within one scope, so that a repeated name gets `#2`, `#3`, ...

    Most branches of a wide group plan one step, so the first name needs no dict.

    Attributes:
        first: The name that came first; None: there was none yet.
    """

    path: str
    first: str | None = None
    _counts: dict[str, int] | None = None

    def last_path(self, name: str) -> str | None:
        """Path of the latest occurrence of `name`; None if there is none yet."""
        if self.first is None:
            return None
        n = self._count(name)
        return self._path(name, n) if n else None

    def next_path(self, name: str) -> str:
        """Path of the next occurrence of `name` in this scope.

        Raises:
            InvalidName: see `encode_key`.
        """
        if self.first is None:
            key = encode_key(name)
            self.first = name
            return f"{self.path}/{key}" if self.path else key
        n = self._count(name) + 1
        path = self._path(name, n)
        if self._counts is None:
            self._counts = {self.first: 1}
        self._counts[name] = n
        return path

    def _count(self, name: str) -> int:
        if self._counts is None:
            return 1 if name == self.first else 0
        return self._counts.get(name, 0)

    def _path(self, name: str, n: int) -> str:
        key = encode_key(name)
        return join(self.path, key if n == 1 else f"{key}#{n}")
