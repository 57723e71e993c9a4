"""Which peers there are, which of them can be measured here, and why others cannot."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lines import Skipped
from benchmarks.peers.dbos import Dbos
from benchmarks.peers.inngest import Inngest
from benchmarks.peers.peer import Peer, Turns
from benchmarks.peers.restate import Restate

NAMES = ("restate", "dbos-sqlite", "dbos-postgres", "inngest")


def chosen(names: str, inngest: Path | None = None) -> tuple[list[Turns], list[Skipped]]:
    """Peers that can be measured, and why others cannot.

    Args:
        names: Separated by commas, or "all".
        inngest: Server binary of that peer.

    Raises:
        ValueError: there is no such peer.
    """
    wanted = NAMES if names == "all" else tuple(names.split(","))
    if unknown := set(wanted) - set(NAMES):
        raise ValueError(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    able, skipped = [], []
    for name in wanted:
        peer = _peer(name, inngest)
        if reason := peer.missing():
            skipped.append(Skipped(subject=name, reason=reason))
        else:
            able.append(Turns(peer))
    return able, skipped


def _peer(name: str, inngest: Path | None) -> Peer:
    match name:
        case "restate":
            return Restate()
        case "dbos-sqlite":
            return Dbos(name)
        case "dbos-postgres":
            return Dbos(name, on_postgres=True)
        case _:
            return Inngest(inngest)
