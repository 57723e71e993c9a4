"""The verdict of a group while its branches end, in constant time for each (MISSION S6).

It says what `stepwire.protocol.verdict.group_verdict` says of the same entries; that one is normative, and
`tests/sdk/test_group_tally.py` compares them. Asking it anew after each branch would cost the square of the width.
"""

from __future__ import annotations

from stepwire.protocol.plan import BranchOutcome, GroupEnded, GroupOpened, Verdict
from stepwire.protocol.verdict import successes_needed


class Tally:
    """Counts the ends of one group's branches.

    Args:
        opened: The group; its policy, size and `cancel_siblings` decide.

    Attributes:
        decided: The verdict, once no further end can change it.
        winner: Index of the branch that decided a success; None: none did.
    """

    __slots__ = ("_early", "_ended", "_failures_allowed", "_left", "_needed", "_path", "decided", "winner")

    def __init__(self, opened: GroupOpened) -> None:
        self._path = opened.path
        self._needed = successes_needed(opened)
        self._failures_allowed = opened.branches - self._needed
        self._early = opened.cancel_siblings and self._needed > 0
        self._left = opened.branches
        self._ended = bytearray(opened.branches)
        self.decided: Verdict | None = None
        self.winner: int | None = None
        if self._needed == 0:
            self.decided = Verdict.OK
        elif self._failures_allowed < 0:
            self.decided = Verdict.FAILED

    def add(self, index: int, outcome: BranchOutcome) -> bool:
        """Branch `index` ended; each does so once. Returns whether there may be a verdict now."""
        self._ended[index] = 1
        self._left -= 1
        if outcome is BranchOutcome.OK:
            self._needed -= 1
            if self._needed == 0 and self.decided is None:
                self.decided = Verdict.OK
                self.winner = index
        else:
            self._failures_allowed -= 1
            if self._failures_allowed < 0 and self.decided is None:
                self.decided = Verdict.FAILED
        return not self._left or (self._early and self.decided is not None)

    def verdict(self, *, expired: bool = False) -> GroupEnded | None:
        """How the group ends now, or None while it goes on.

        Args:
            expired: Its deadline has passed.
        """
        if self._left and not expired and not (self._early and self.decided is not None):
            return None
        losers = tuple([i for i, ended in enumerate(self._ended) if not ended]) if self._left else ()
        winner = self.winner + 1 if losers and self.winner is not None else 0
        return GroupEnded(self._path, self.decided or Verdict.FAILED, winner, losers)
