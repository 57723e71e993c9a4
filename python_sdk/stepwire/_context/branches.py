"""What `ctx.group` asks for: branches and a policy, checked at the call so that a mistake plans nothing.

Async and sync flows ask for the same things; this module knows neither futures nor threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stepwire._runtime.group import Branch, GroupRequest, Shape
from stepwire.compensation import Compensate
from stepwire.errors import ConfigurationError, InvalidStepName
from stepwire.protocol import paths
from stepwire.protocol.limits import NAME_BYTES_MAX, UINT32_MAX
from stepwire.protocol.plan import FailPolicy, GroupOpened, ParallelMode
from stepwire.redaction import Redact
from stepwire.retry import Duration, Retry, deadline_of

if TYPE_CHECKING:
    from stepwire._context.base import BaseContext
    from stepwire._runtime.attempt import StepCall
    from stepwire._runtime.durable import StepFuture
    from stepwire._runtime.request import StepRequest

FailName = Literal["any", "all", "never"]

_POLICIES = {"any": FailPolicy.ANY, "all": FailPolicy.ALL, "never": FailPolicy.NEVER}
_NAMES_BYTES_MAX = 64 * 1024
"""Of all branches of one group together (proto/README 13). They are labels: more of them are left out."""


class Policy(NamedTuple):
    """Options of a group as user code gives them."""

    mode: ParallelMode | None
    fail: FailName
    quorum: int | None
    cancel_siblings: bool
    limit: int | None
    deadline: Duration | None

    def opened(self, ctx: BaseContext, branches: int, names: tuple[str, ...] = ()) -> GroupOpened:
        """The same as the protocol says it, still without a path.

        Raises:
            ConfigurationError: an option is out of its bounds, or two exclude each other.
        """
        mode = self.mode or (ParallelMode.RACE if self.cancel_siblings else ctx._parallel_mode)
        return GroupOpened(
            "",
            branches,
            mode,
            self._fail_policy(),
            self._checked_quorum(branches),
            bool(self.cancel_siblings),
            self._checked_limit(),
            names=names,
            deadline=None if self.deadline is None else deadline_of(self.deadline),
        )

    def _fail_policy(self) -> FailPolicy:
        if self.fail not in _POLICIES:
            raise ConfigurationError(f'fail= is "any", "all" or "never", not {self.fail!r}')
        if self.quorum is None:
            return _POLICIES[self.fail]
        if self.fail != "any":
            raise ConfigurationError(f"quorum={self.quorum!r} and fail={self.fail!r} exclude each other")
        return FailPolicy.QUORUM

    def _checked_quorum(self, branches: int) -> int:
        quorum = self.quorum
        if quorum is None:
            return 0
        if type(quorum) is not int or not 1 <= quorum <= branches:
            raise ConfigurationError(f"quorum is 1 to the number of branches, here {branches}, not {quorum!r}")
        return quorum

    def _checked_limit(self) -> int:
        limit = self.limit
        if limit is None:
            return 0
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit is at least 1, not {limit!r}", hint="leave it out for no limit")
        return min(limit, UINT32_MAX)


def parallel(ctx: BaseContext, branches: Iterable[Branch], policy: Policy) -> GroupRequest:
    """Raises TypeError or ConfigurationError."""
    made = ctx._branches(branches)
    opened = policy.opened(ctx, len(made), _names(made))
    return GroupRequest(made, opened, Shape.VALUES if opened.fail is FailPolicy.ANY else Shape.RESULTS)


def race(ctx: BaseContext, branches: Iterable[Branch], limit: int | None, deadline: Duration | None) -> GroupRequest:
    """Raises TypeError or ConfigurationError."""
    made = ctx._branches(branches)
    if not made:
        raise ConfigurationError("a race without branches has no winner")
    # In WAIT the outcome that decides would wait for those it makes superfluous.
    policy = Policy(ParallelMode.RACE, "all", None, True, limit, deadline)
    return GroupRequest(made, policy.opened(ctx, len(made), _names(made)), Shape.WINNER)


def mapped(
    ctx: BaseContext,
    template: str,
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    policy: Policy,
    retries: int | Retry | None,
    timeout: Duration | None,
    compensate: Compensate | None,
    redact: Redact,
) -> GroupRequest:
    """One bare step for each item.

    Raises:
        ConfigurationError, InvalidStepName, InvalidInput
    """
    given = tuple(items)
    _check_name(_step_name(template, max(0, len(given) - 1)))
    branches: list[Branch] = []
    for index, item in enumerate(given):
        name = _step_name(template, index)
        request = ctx._prepare(name, fn, (item,), {}, retries, timeout, None, compensate, redact=redact)
        branches.append(partial(_plan, ctx, name, request))
    opened = policy.opened(ctx, len(branches))
    return GroupRequest(branches, opened, Shape.VALUES if opened.fail is FailPolicy.ANY else Shape.RESULTS, bare=True)


def _plan(ctx: BaseContext, name: str, request: StepRequest | StepCall) -> StepFuture:
    return ctx._body.plan_step(ctx._scope("ctx.group.map"), name, request)


def _step_name(template: str, index: int) -> str:
    return template.replace("{i}", str(index))


def _check_name(name: str) -> None:
    try:
        paths.encode_key(name)
    except paths.InvalidName as error:
        raise InvalidStepName(str(error)) from None


def _names(branches: Sequence[Branch]) -> tuple[str, ...]:
    """Labels of branches: the names of their functions. Empty if none has one, or there is too much of them."""
    names = [getattr(branch, "__name__", "") for branch in branches]
    if all(map("<lambda>".__eq__, names)):
        return ()
    labels = tuple(["" if name == "<lambda>" else _label(name) for name in names])
    return labels if 0 < sum(map(len, labels)) <= _NAMES_BYTES_MAX else ()


def _label(name: Any) -> str:
    plain = isinstance(name, str) and name.isascii() and name.isidentifier()
    return name if plain and len(name) <= NAME_BYTES_MAX else ""
