"""Flows that are declared instead of written: steps and groups in order, with names checked at definition (MISSION S9).

    fetch_and_process = (
        stepwire.Flow("fetch-and-process")
        .parallel("fetch-data", [
            stepwire.Step("fetch-user", fetch_user),
            stepwire.Step("fetch-posts", fetch_posts),
        ])
        .step("process-all", process_all)
    )
    host.add(fetch_and_process)

It is another spelling of `ctx.step.run` and `ctx.group.parallel`, with one difference to know: a declared group fails
only if ALL of its steps fail (`fail="all"`), while `ctx.group.parallel` fails if ANY branch does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from stepwire._declarative.body import run_items
from stepwire._declarative.group import FailName, Group
from stepwire._declarative.outline import outline, shown
from stepwire._declarative.record import result_of_run
from stepwire._declarative.results import FlowGroupResult, FlowResult, FlowStepResult, ResultUnavailable, Stored
from stepwire._declarative.state import Book, FlowState, Standing
from stepwire._declarative.step import Step, StepOptions, checked_name
from stepwire._declarative.wire import output_json, result_from_json
from stepwire._transport.run_record import Run
from stepwire.codec import JSON_CODEC, Codec
from stepwire.errors import ConfigurationError
from stepwire.events import TriggerLike
from stepwire.flow import FlowFunction
from stepwire.hooks import HookFunction, HookKind
from stepwire.protocol.payload import Payload
from stepwire.redaction import Parts, Redact, redacts
from stepwire.retry import Duration

if TYPE_CHECKING:
    from stepwire.context import Context

__all__ = (
    "Flow",
    "Step",
    "FlowState",
    "FlowResult",
    "FlowStepResult",
    "FlowGroupResult",
    "ResultUnavailable",
)

F = TypeVar("F", bound=HookFunction)


class Flow(FlowFunction[..., Coroutine[Any, Any, FlowResult]]):
    """A flow of declared steps and groups, one after the other (MISSION S9).

    `step` and `parallel` add to it and return it, until `host.add` registers it. A run of it returns a FlowResult;
    by name, for example from another language, the same as JSON.

    Args:
        name: Of the flow, 1..256 bytes.
        input: Type of its input, as a flow's parameter would be annotated: input that does not fit is refused
            before any step (MISSION S23). Left out: any JSON value, or none.
        deadline, undo_on_cancel, on, redact: As of `Host.flow`.

    Raises:
        ConfigurationError: the name, the type or an option is bad.
    """

    def __init__(
        self,
        name: str,
        *,
        input: Any = inspect.Parameter.empty,
        deadline: Duration | None = None,
        undo_on_cancel: bool = False,
        on: TriggerLike = (),
        redact: Redact = (),
    ) -> None:
        if isinstance(input, str):
            raise ConfigurationError(f"flow {name!r}: input= is a type, not the text {input!r:.80}")
        self._items: list[Step | Group] = []
        self._names: dict[str, Standing] = {}
        self._types: dict[str, Any] = {}
        self._left_out: frozenset[str] = frozenset()
        self._input_type = Any if input is inspect.Parameter.empty else input
        body = self._any_input() if input is inspect.Parameter.empty else self._typed_input(input)
        super().__init__(
            body,
            name=checked_name("flow", name),
            deadline=deadline,
            undo_on_cancel=undo_on_cancel,
            on=on,
            redact=redact,
        )

    # ---- declaring

    def step(self, name: str, fn: Callable[..., Any], **options: Unpack[StepOptions]) -> Self:
        """Add a step; it starts when everything before it has settled (MISSION O2).

        Args:
            name, fn, options: As of `Step`.

        Raises:
            ConfigurationError: the name is taken, or an option is bad, or the flow is on a host already.
        """
        self._add_item(Step(name, fn, **options))
        return self

    def parallel(
        self,
        name: str,
        steps: Iterable[Step],
        *,
        fail: FailName = "all",
        fail_fast: bool = False,
        quorum: int | None = None,
        cancel_siblings: bool = False,
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> Self:
        """Add a group of steps that run at the same time (MISSION O1-O8, O11-O13).

        By default it fails only if ALL of its steps fail: with one success the flow goes on, and later steps see
        in `state.group_result(name)` what is missing. Say `fail_fast=True` where every step is needed.

        Args:
            name: Of the group; unique in the flow, among steps and groups.
            steps: Its members. None of them sees the result of another; an empty group completes.
            fail: It fails if "any" step fails, only if "all" do, or "never".
            fail_fast: The same as `fail="any"`. It decides how the group ends, not when: see `cancel_siblings`.
            quorum: Instead of `fail`: it fails unless this many steps succeed, 1 to their number.
            cancel_siblings: It ends once its outcome is certain, either way, and cancels the steps that are not
                needed any more. Otherwise it ends when every step has settled, whatever happened.
            limit: Most of its steps that execute at once, at least 1; the others wait in order of declaration.
            deadline: Longest duration of the group, more than 0 s; what has not ended by then is cancelled.

        Raises:
            ConfigurationError: a name is taken, a step needs another of the group, options exclude each other or
                are out of bounds, or the flow is on a host already.
        """
        group = Group(
            name,
            steps,
            fail=fail,
            fail_fast=fail_fast,
            quorum=quorum,
            cancel_siblings=cancel_siblings,
            limit=limit,
            deadline=deadline,
        )
        self._add_item(group)
        return self

    def _add_item(self, item: Step | Group) -> None:
        if self._add is not None:
            raise ConfigurationError(f"flow {self.name!r} is on a host already: declare all of it first")
        place = len(self._items)
        names: dict[str, Standing] = {}
        steps: tuple[Step, ...]
        match item:
            case Step():
                steps = (item,)
                names[item.name] = Standing(place)
            case Group():
                steps = item.steps
                members = tuple([step.name for step in steps])
                names[item.name] = Standing(place, members=members, fail=item.fail)
                for index, step in enumerate(steps):
                    self._check_new(step.name, names)
                    names[step.name] = Standing(place, item.name, index)
        for name in names:
            self._check_new(name, {})
        for step in steps:
            self._check_needs(step, names)
        self._items.append(item)
        self._names |= names
        self._types |= {step.name: step.returns for step in steps}
        self._left_out |= {step.name for step in steps if not step.in_result}
        if any(step.in_result and redacts(step.redacted, Parts.OUTPUT) for step in steps):
            self.redact = Parts.OUTPUT | (self.redact or Parts.OUTPUT)

    def _check_new(self, name: str, beside: dict[str, Standing]) -> None:
        """Names of steps and groups are one set: results are read by them (MISSION 2.2)."""
        taken = beside.get(name) or self._names.get(name)
        if taken is not None:
            what = "a group" if taken.members is not None else "a step"
            where = f" of group {taken.group!r}" if taken.group else ""
            raise ConfigurationError(f"flow {self.name!r} has {what}{where} named {name!r} already")

    def _check_needs(self, step: Step, beside: dict[str, Standing]) -> None:
        for need in step.needs:
            if need == step.name:
                raise ConfigurationError(f"step {step.name!r} needs itself")
            if need in beside:
                raise ConfigurationError(
                    f"step {step.name!r} needs {need!r}, which stands in the same group",
                    why="steps of a group run at the same time and must not depend on each other",
                    hint=f"move {step.name!r} behind the group",
                )
            if need not in self._names:
                raise ConfigurationError(
                    f"step {step.name!r} needs {need!r}, which is not declared before it",
                    why="a step sees only what is declared before it",
                )

    @overload
    def on(self, kind: HookKind) -> Callable[[F], F]: ...

    @overload
    def on(self, kind: HookKind, fn: HookFunction) -> Self: ...

    def on(self, kind: HookKind, fn: HookFunction | None = None) -> Any:
        """Register a hook for runs of this flow, as a decorator or, with `fn`, in a chain; see `Host.on`."""
        register = super().on(kind)
        if fn is None:
            return register
        register(fn)
        return self

    # ---- looking at it

    def describe(self) -> dict[str, Any]:
        """What it declares, as JSON: its steps with their policies, and when each group fails (MISSION O13)."""
        return outline(self.name, self._items)

    def show(self) -> str:
        """The same as text for people."""
        return shown(self.name, self._items)

    def result_of(self, run: Run) -> FlowResult:
        """How a run that ended went, from its record: also of runs that failed or were cancelled (MISSION S5).

        Steps that were never planned are "skipped". Times are those of the engine.

        Args:
            run: With steps, as from `client.get(run_id, steps=True)`. Outputs of more than 64 KiB are not part
                of a record.

        Raises:
            RunError: it has not ended.
            ConfigurationError: it is a run of another flow.
        """
        if run.flow != self.name:
            raise ConfigurationError(f"run {run.run_id} is one of flow {run.flow!r}, not of {self.name!r}")
        return result_of_run(run, self._names, self._types)

    # ---- running

    def decode_output(self, payload: Payload) -> FlowResult:
        """What a run returned; outputs of steps come by the annotations of their functions. Raises InvalidInput."""
        return result_from_json(payload, self.codec, self._types)

    def join(self, codec: Codec, add: Callable[[FlowFunction[..., Any]], None]) -> None:
        """It belongs to a host from now on: what `Host.add` does.

        Raises:
            ConfigurationError: it belongs to one already, or its name is taken there.
        """
        if self._add is not None:
            raise ConfigurationError(f"flow {self.name!r} is on a host already")
        add(self)
        self.codec = codec
        self._add = add

    async def _body(self, ctx: Context, input: Any) -> dict[str, Any]:
        stored = Stored(JSON_CODEC.encode(input, self._input_type), self._input_type)
        book = Book(self.name, ctx.run_id, stored, self._names)
        await run_items(ctx, self._items, book)
        return output_json(book, self._left_out)

    def _any_input(self) -> Callable[..., Any]:
        async def body(ctx: Any, input: Any = None) -> Any:
            return await self._body(ctx, input)

        return body

    def _typed_input(self, type: Any) -> Callable[..., Any]:
        async def body(ctx: Any, input: Any) -> Any:
            return await self._body(ctx, input)

        body.__annotations__ = {"input": type}
        return body
