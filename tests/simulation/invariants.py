"""The invariants that histories are checked for, by the numbers that their violations carry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

INVARIANTS = {
    "I1": "nothing that was answered or acked is lost, and nothing leaves before its commit",
    "I2": "a step has one outcome, produced by an execution of the attempt that is on record",
    "I3": "nothing is given out of a run, or of a step, that is over",
    "I4": "at most one host executes a step, and the fences of what is given out rise",
    "I5": "states move only forward, numbers have no gaps, attempts go up by one",
    "I6": "the end of a group follows from the ends of its branches, and its losers are cancelled",
    "I7": "nothing happens before its time, and nothing that is due is forgotten",
    "I8": "a run that stops begins nothing, and is undone in reverse order, each step once",
    "I9": "a step is executed no more often than its attempts and the losses of hosts explain",
    "I10": "a wait takes one event, the first that fits, and misses none",
    "I11": "a key, and a cause, stands for one run",
    "I12": "the journal gives the state that is in memory",
    "I13": "nothing of what is over stays in memory or in the side tables",
    "I14": "once the faults have ended every run comes to its end",
    "I18": "every open run and step has exactly one owner",
}
_NUMBER = re.compile(r"\bI\d{1,2}\b")


@contextmanager
def guarding(*numbers: str) -> Iterator[None]:
    """What fails within breaks these invariants; the error says so."""
    try:
        yield
    except AssertionError as error:
        if not broken_by(error):
            error.add_note("breaks " + "; ".join(f"{number}: {INVARIANTS[number]}" for number in numbers))
        raise


def broken_by(error: BaseException) -> frozenset[str]:
    """The invariants that an error of a history names."""
    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    return frozenset(_NUMBER.findall(text)) & INVARIANTS.keys()
