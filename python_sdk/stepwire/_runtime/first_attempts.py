"""First attempts that a host begins by itself, without asking the engine (DESIGN 3, rule 5).

The right to a live body is the right to its closures, and to a registered step that is the only one of its turn. Here
is decided which of a body's new steps begin now; everything else waits for an Execute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stepwire._runtime.body import LiveBody
from stepwire._runtime.durable import StepFuture
from stepwire._runtime.starting import Starter
from stepwire._transport.port import SessionPort
from stepwire.protocol.frames import Execute, RejectReason
from stepwire.protocol.plan import StepKind, StepPlanned

_RUN = StepKind.RUN


class FirstAttempts:
    """Begins what may begin of the new steps of live bodies.

    Args:
        steps: Registered steps that this host serves, by name.
        submit_plans: Carries to the session what a body has planned; the body may be over afterwards.
    """

    def __init__(
        self, port: SessionPort, steps: Mapping[str, object], starter: Starter, submit_plans: Callable[[LiveBody], None]
    ) -> None:
        self._port = port
        self._steps = steps
        self._starter = starter
        self._submit_plans = submit_plans

    def start(self, body: LiveBody) -> None:
        """Begin first attempts of the body's new steps, as far as that is allowed and slots are free."""
        steps = self._chosen(body)
        for step in steps:
            if step.call is not None and not step.call.is_async:
                # The outcome of a sync step goes to the session from its thread; its plan must be there first.
                self._submit_plans(body)
                break
        if body.over or (steps and steps[0].planned.kind is StepKind.TASK):  # A registered step is alone.
            for step in steps:
                self._start_as_executed(body, step.planned)
        else:
            self._starter.start_closures(body, steps)

    def _chosen(self, body: LiveBody) -> Sequence[StepFuture]:
        fresh, body.fresh = body.fresh, []
        if body.hold or not body.journal.caught_up:
            return ()
        alone, known = len(fresh) == 1, self._steps
        anew, is_new = body.journal.starts_anew, body.journal.is_new
        mine: list[StepFuture] = []
        chosen: list[str] = []
        for step in fresh:
            # Only one that is still open has a call. Of those that a host executes, each has one.
            if step.call is not None and not step.scope.limited and (anew or is_new(step.path)):
                planned = step.planned
                if planned.kind is _RUN or (alone and planned.name in known):
                    mine.append(step)
                    chosen.append(step.path)
        if not mine:
            return ()
        started = self._port.start(body.run_id, chosen, body.journal.fence)
        if not started:
            return ()
        body.journal.mark_started(started)
        if len(started) == len(mine):
            return mine
        taken = set(started)
        return [step for step in mine if step.path in taken]

    def _start_as_executed(self, body: LiveBody, planned: StepPlanned) -> None:
        """The first attempt of a step that the host begins by itself, as the engine would give it."""
        path, fence, traceparent = planned.path, body.journal.fence, planned.traceparent
        execute = Execute(
            path, 1, fence, planned.kind, planned.name, planned.input, planned.timeout, traceparent=traceparent
        )
        if body.over:
            self._port.reject(body.run_id, execute, RejectReason.NO_BODY)
        else:
            # User code of a registered step always sees arguments decoded from the journaled bytes.
            self._starter.start_task(body.run_id, execute, body.flow.name)
