"""A group of a declared flow: its members and when it fails, checked where it is declared (MISSION S9, O6, O13).

A declared group becomes one `ctx.group.parallel`. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from stepwire._declarative.step import Step, checked_name
from stepwire.errors import ConfigurationError
from stepwire.retry import Duration, deadline_of

FailName = Literal["any", "all", "never"]
PolicyName = Literal["any", "all", "never", "quorum"]

_POLICIES: dict[PolicyName, str] = {
    "any": "FAILS IF ANY of its {n} steps fails",
    "all": "FAILS ONLY IF ALL of its {n} steps fail; fewer failures are tolerated",
    "never": "NEVER FAILS; failures of its {n} steps are tolerated",
    "quorum": "FAILS UNLESS AT LEAST {quorum} of its {n} steps succeed; other failures are tolerated",
}


class Group:
    """What `Flow.parallel` declares, which explains the options.

    Attributes:
        fail: Its policy, "quorum" included.

    Raises:
        ConfigurationError: an option is out of its bounds, or two exclude each other.
    """

    def __init__(
        self,
        name: str,
        steps: Iterable[Step],
        *,
        fail: FailName,
        fail_fast: bool,
        quorum: int | None,
        cancel_siblings: bool,
        limit: int | None,
        deadline: Duration | None,
    ) -> None:
        self.name = checked_name("group", name)
        self.steps = _members(name, steps)
        self.fail = _policy(name, fail, fail_fast, quorum)
        self.quorum = _checked_quorum(name, quorum, len(self.steps))
        self.cancel_siblings = bool(cancel_siblings)
        self.limit = _checked_limit(name, limit)
        self.deadline = None if deadline is None else deadline_of(deadline)

    @property
    def options(self) -> dict[str, Any]:
        """Of `ctx.group.parallel`."""
        verdict = {"quorum": self.quorum} if self.fail == "quorum" else {"fail": self.fail}
        return {
            **verdict,
            "name": self.name,
            "cancel_siblings": self.cancel_siblings,
            "limit": self.limit,
            "deadline": self.deadline,
        }

    @property
    def policy(self) -> str:
        """When it fails and when it ends, in words (MISSION O13)."""
        return "; ".join(
            [
                _POLICIES[self.fail].format(n=len(self.steps), quorum=self.quorum),
                "ends as soon as that is certain and cancels the rest"
                if self.cancel_siblings
                else "waits until every step has settled",
                *([f"at most {self.limit} at once"] if self.limit is not None else []),
                *([f"ends after {self.deadline:g} s at the latest"] if self.deadline is not None else []),
            ]
        )


def _members(group: str, steps: Iterable[Step]) -> tuple[Step, ...]:
    made = tuple(steps)
    for index, member in enumerate(made):
        if not isinstance(member, Step):
            raise ConfigurationError(
                f"group {group!r}: member {index} is {type(member).__name__}, not a Step",
                hint="write stepwire.Step(name, function)",
            )
    return made


def _policy(group: str, fail: FailName, fail_fast: bool, quorum: int | None) -> PolicyName:
    if fail not in ("any", "all", "never"):
        raise ConfigurationError(f'group {group!r}: fail= is "any", "all" or "never", not {fail!r:.80}')
    # "all" is the default, so it cannot be told from nothing said.
    said = [
        *([f"fail={fail!r}"] if fail != "all" and not (fail_fast and fail == "any") else []),
        *(["fail_fast=True"] if fail_fast else []),
        *([f"quorum={quorum!r}"] if quorum is not None else []),
    ]
    if len(said) > 1:
        raise ConfigurationError(f"group {group!r}: {' and '.join(said)} exclude each other")
    if quorum is not None:
        return "quorum"
    return "any" if fail_fast else fail


def _checked_quorum(group: str, quorum: int | None, members: int) -> int | None:
    if quorum is not None and (type(quorum) is not int or not 1 <= quorum <= members):
        raise ConfigurationError(
            f"group {group!r}: quorum is 1 to the number of its steps, here {members}, not {quorum!r:.80}"
        )
    return quorum


def _checked_limit(group: str, limit: int | None) -> int | None:
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigurationError(
            f"group {group!r}: limit is at least 1, not {limit!r:.80}", hint="leave it out for no limit"
        )
    return limit
