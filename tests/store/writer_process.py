"""A process that writes rows and prints each acknowledged one, until it is killed.

Arguments: the database; then, to end by itself, the number of rows, and the pages after which the log is recycled. It
ends with 4 if too few of its commits were one statement, or all of them.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence

from stepwire_engine.store import sqlite_journal
from stepwire_engine.store.base import Receipt
from stepwire_engine.store.draft import Draft
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.sqlite_tables import SqliteTables
from tests.store.samples import COMMITTED, at_once, never_fails
from tests.store.written import RUNS, unit_of


def main(path: str, rows_max: float = math.inf) -> None:
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    store.open()
    epoch = store.claim()
    last = {run: len(store.journal(run)) for run in RUNS}
    acked = 0
    over = threading.Event()
    kinds = note_kinds()

    def submit(run: int) -> None:
        seq = last[run] = last[run] + 1
        unit = unit_of(epoch, run, seq)

        def done(receipts: Sequence[Receipt]) -> None:
            if receipts[0].outcome is not COMMITTED:
                os.write(2, f"{run} {seq} {receipts[0]}\n".encode())
                os._exit(3)
            os.write(1, f"{run} {seq}\n".encode())
            nonlocal acked
            acked += 1
            if acked >= rows_max:
                over.set()
            else:
                submit(run)  # on the journal thread: it queues and returns

        store.submit([unit], done)

    print("ready", flush=True)
    for run in RUNS:
        submit(run)
    if rows_max < math.inf:
        over.wait()
        os._exit(0 if kinds.count(True) > 5 and kinds.count(False) > 5 else 4)
    sys.stdin.read()  # the journal thread does the rest; without a parent there is nothing left to do


def note_kinds() -> list[bool]:
    """Of each commit from now on, whether it is one statement."""
    kinds: list[bool] = []
    asked = SqliteTables.writes_at_once

    def noted(self: SqliteTables, draft: Draft) -> bool:
        kinds.append(asked(self, draft))
        return kinds[-1]

    SqliteTables.writes_at_once = noted  # type: ignore[method-assign]
    return kinds


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sqlite_journal.CHECKPOINT_PAGES = int(sys.argv[3])
        main(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[1])
