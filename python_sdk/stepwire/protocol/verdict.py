"""The verdict of a group: a pure function of its ordered BranchEnded entries (DESIGN 4, MISSION S6).

Host and engine both compute it; `proto/README.md` is normative and `tests/protocol/vectors/verdicts.json`
holds golden vectors for other languages.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwire.protocol.plan import BranchOutcome, FailPolicy, GroupEnded, GroupOpened, Verdict

EndedBranch = tuple[int, BranchOutcome]


def group_verdict(group: GroupOpened, ended: Sequence[EndedBranch], *, expired: bool = False) -> GroupEnded | None:
    """How `group` ends after these branches ended, in the order in which they ended.

    Args:
        group: The opened group; its policy, size and `cancel_siblings` decide.
        ended: (index, outcome) in the order of the BranchEnded entries.
        expired: Its deadline has passed: it ends now, and what has not ended counts as not succeeded.

    Returns:
        The GroupEnded entry, or None while the group goes on. Without `cancel_siblings` that is until
        every branch ended.
    """
    needed = successes_needed(group)
    succeeded = 0
    not_ok = 0
    decided = Verdict.FAILED if needed > group.branches else None
    winner = 0
    for index, outcome in ended:
        if outcome is BranchOutcome.OK:
            succeeded += 1
            if succeeded == needed and decided is None:
                decided = Verdict.OK
                winner = index + 1 if succeeded < group.branches else 0
        else:
            not_ok += 1
            if not_ok > group.branches - needed and decided is None:
                decided = Verdict.FAILED
    if needed == 0:
        decided = Verdict.OK
    complete = len(ended) == group.branches
    if expired and decided is None:
        decided = Verdict.FAILED
    if decided is None or not (complete or expired or (group.cancel_siblings and needed > 0)):
        return None
    seen = {index for index, _ in ended}
    losers = tuple(i for i in range(group.branches) if i not in seen)
    return GroupEnded(group.path, decided, winner if losers else 0, losers)


def successes_needed(group: GroupOpened) -> int:
    """How many branches must succeed for the group to succeed."""
    match group.fail:
        case FailPolicy.ANY:
            return group.branches
        case FailPolicy.ALL:
            return min(1, group.branches)
        case FailPolicy.NEVER:
            return 0
        case FailPolicy.QUORUM:
            return group.quorum
