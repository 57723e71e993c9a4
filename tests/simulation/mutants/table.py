"""The planted faults: at least two for each invariant, which its checks must find.

A line of the table says what is wrong, which invariants it breaks, where it is planted, and how many seeds, from 0, may
be played until it is found. The worlds of a line are chosen so that this is soon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepwire._transport.session import HostSession
from stepwire.protocol import verdict
from stepwire_engine.core import deadlines, delivery, ending, fold, machine, retry, settle
from stepwire_engine.core.admission import Admission
from stepwire_engine.core.books import Books
from stepwire_engine.core.commits import Commits
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.inbox import Inbox
from stepwire_engine.core.intake import Intake
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.requests import Requests
from stepwire_engine.core.slots import _still_ready
from stepwire_engine.store.draft import SideChanges
from stepwire_engine.store.memory import MemoryStore
from tests.simulation.mutants.planting import Edit

CALM: dict[str, Any] = {"faults": 0.0}
CUTS: dict[str, Any] = {"kinds": ("cut", "dark")}
ENGINE: dict[str, Any] = {"kinds": ("engine",)}
HOSTS: dict[str, Any] = {"kinds": ("host", "leave", "cut")}
WAITS: dict[str, Any] = {"faults": 0.0, "features": ("performed",)}
FAILURES: dict[str, Any] = {"faults": 0.0, "features": ("failures",)}
FLAP: dict[str, Any] = {"kinds": ("flap",), "features": ()}
DARK: dict[str, Any] = {"kinds": ("dark",), "faults": 2.0, "features": ()}
CROWD: dict[str, Any] = {"features": ("groups",), "runs": 6}
EVERYTHING: dict[str, Any] = {}


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        name: What the faulty engine does.
        breaks: One of these invariants is named when it is caught.
        edits: The fault; more than one where the engine asks twice, and only both together are a fault.
        seeds: It is caught within the seeds 0 .. seeds - 1.
        world: Options of the world that find it fast.
    """

    name: str
    breaks: tuple[str, ...]
    edits: tuple[Edit, ...]
    seeds: int
    world: dict[str, Any]


def mutant(
    name: str, breaks: tuple[str, ...], *edits: Edit, seeds: int = 100, world: dict[str, Any] = EVERYTHING
) -> Mutant:
    """A line of the table."""
    return Mutant(name, breaks, edits, seeds, world)


MUTANTS = (
    # ---- I1: nothing acked is lost, nothing leaves before its commit
    mutant(
        "clients are answered before the commit",
        ("I1",),
        Edit(
            EngineCore.take_commits,
            "return commits",
            "self._books.replies.extend([r for c in commits for r in c.replies])\n"
            "    for commit in commits:\n        commit.replies = []\n    return commits",
        ),
        world=CALM,
    ),
    mutant(
        "frames are acked before the commit",
        ("I1", "I5", "I14"),
        Edit(Commits.queue, "        ticket.holds += 1\n        commit.tickets.append(ticket)", "        pass"),
        world=ENGINE,
    ),
    mutant(
        "releases leave before the commit",
        ("I1",),
        Edit(
            Commits.queue,
            "    self._books.commits.append(commit)",
            "    self._books.commits.append(commit)\n"
            "    if turn.released is not None:\n        self._dispatcher.bodies.release(run, turn.released)",
        ),
        world=CALM,
    ),
    mutant(
        "facts are forgotten by a restart",
        ("I1", "I14", "I18"),
        Edit(EngineCore.recover, "self._performed.recover(inbox)", "self._performed.recover(())"),
        world=ENGINE,
    ),
    mutant(
        "clients are told that a run is cancelled, and it is not",
        ("I1",),
        Edit(
            Requests.cancel,
            "self._decide(token, run, lambda turn: ending.stop(turn, RunState.CANCELLED, undo=undone))",
            "self._answer(run, Reply(token, run_id))",
        ),
        world=CALM,
    ),
    # ---- I2: one outcome, of the attempt on record
    mutant(
        "a result is applied again",
        ("I2",),
        Edit(Intake._results, "if step is None or step.state.final:", "if step is None:"),
        world=CUTS,
    ),
    mutant(
        "the result of an earlier attempt counts for the present one",
        ("I2",),
        Edit(Intake._results, "result.attempt != step.attempt or ", ""),
        Edit(Intake._results, "step.fence = books.next_fence()", "pass"),
        world=FLAP,
    ),
    mutant(
        "a result with a stale fence is accepted",
        ("I2",),
        Edit(Intake._results, "(step.fence is not None and fence < step.fence)", "False"),
        world=DARK,
    ),
    # ---- I3: nothing is given out of what is over
    mutant(
        "steps are given out after their outcome",
        ("I3", "I8"),
        Edit(_still_ready, " and not step.state.final", ""),
        Edit(Dispatcher.let_go, "if step.queued:", "if False:"),
        world=FAILURES,  # No limits of groups, which it exceeds as well.
    ),
    mutant(
        "the retries of steps that are over are given out",
        ("I3", "I8", "I6"),
        Edit(_still_ready, " and not step.state.final", ""),
        Edit(Dispatcher.enqueue, " or step.state.final", ""),
    ),
    # ---- I4: one lease
    mutant(
        "a step that a host has is given to another one",
        ("I4", "I18"),
        Edit(Dispatcher.enqueue, " or step.lease is not None", ""),
        Edit(_still_ready, " and step.lease is None", ""),
    ),
    mutant(
        "fences do not rise",
        ("I4",),
        Edit(Books.next_fences, "self._fence_n += count", "self._fence_n = count"),
    ),
    mutant(
        "a restarted engine claims with the old epoch",
        ("I4",),
        Edit(MemoryStore.claim, "self.claim_epoch(partition) + 1", "max(1, self.claim_epoch(partition))"),
        world=ENGINE,
    ),
    # ---- I5: forward only, no gaps
    mutant(
        "plans of a stopping run are accepted",
        ("I5", "I8"),
        Edit(Intake._plan, " or run.stopping is not None", ""),
        seeds=400,
        world=CALM,
    ),
    mutant(
        "releases are numbered with a gap",
        ("I5",),
        Edit(settle._release, "run.release_seq + 1,", "run.release_seq + 1 + (run.release_seq == 1),"),
        world=CALM,
    ),
    mutant(
        "the second retry is attempt 4",
        ("I5", "I2"),
        Edit(fold._attempt_ended, "step.attempt += 1", "step.attempt += step.attempt"),
        world=CALM,
    ),
    # ---- I6: groups
    mutant(
        "a quorum needs one success too few",
        ("I6",),
        Edit(verdict.successes_needed, "return group.quorum", "return max(1, group.quorum - 1)"),
        world=CALM,
    ),
    mutant(
        "losers are not cancelled",
        ("I6",),
        Edit(fold._end_group, "_cancel_scope(run, group.branches[index])", "pass"),
        world=CALM,
    ),
    mutant(
        "limits of groups are exceeded by one",
        ("I6",),
        Edit(Admission.admit, "group.executing >= group.opened.limit", "group.executing > group.opened.limit"),
        world=CALM,
    ),
    # ---- I7: time
    mutant(
        "deadlines of steps pass 50 ms early",
        ("I7",),
        Edit(deadlines.step_due_ms, "round(particulars.deadline * 1000)", "round(particulars.deadline * 1000) - 50"),
        world=CALM,
    ),
    mutant(
        "sleeps and waits end 50 ms early",
        ("I7",),
        Edit(deadlines.goes_on_ms, "round(seconds * 1000)", "round(seconds * 1000) - 50"),
        world=CALM,
    ),
    mutant(
        "a rebuilt run forgets when its retries are due",
        ("I7", "I12"),
        Edit(fold.rebuild, "if step.released:", "step.retry_at_ms = None\n        if step.released:"),
        world=ENGINE,
    ),
    mutant(
        "a retry does not wait for its time",
        ("I7",),
        Edit(Dispatcher._due, "step.state is not StepState.BACKOFF", "True"),
        world=CALM,
    ),
    # ---- I8: cancel and compensation
    mutant(
        "steps are undone in the order of their completion",
        ("I8",),
        Edit(ending.go_on, "reversed(run.completed)", "run.completed"),
        world=CALM,
    ),
    mutant(
        "undos do not wait for the attempts that have to stop",
        ("I8",),
        Edit(ending.go_on, " or (run.leased and run.stop_waits)", ""),
        world=CALM,
    ),
    mutant(
        "an undo that was retried once is left out",
        ("I8",),
        Edit(
            fold._attempt_ended,
            "step.state is StepState.SUCCEEDED:",
            "step.state is StepState.SUCCEEDED and step.attempt == 1:",
        ),
        world=CALM,
    ),
    # ---- I9: executions
    mutant(
        "retries have no end",
        ("I9",),
        Edit(retry.retry_delay, "attempt >= policy.max_attempts or ", ""),
        world=FAILURES,
    ),
    mutant(
        "the loss of a host counts as an attempt",
        ("I9", "I5", "I2"),
        Edit(fold._attempt_lost, "run.steps[entry.path].losses += 1", "run.steps[entry.path].attempt += 1"),
        world=HOSTS,
    ),
    mutant(
        "reports renew nothing",
        ("I9", "I4", "I14"),
        Edit(EngineCore.receive, "session.heard = now.mono\n    session.lost_at = None", "pass"),
        world=CALM,
    ),
    mutant(
        "a failure for good is tried again",
        ("I9",),
        Edit(retry.retry_delay, " or failure.retryable is Retryable.NO", ""),
        world=FAILURES,
    ),
    # ---- I10: events
    mutant(
        "a wait takes a second event",
        ("I10", "I2"),
        Edit(Performed._open, "step is None or step.state.final or", "step is None or"),
        world=CALM,
    ),
    mutant(
        "an event wakes only the first that waits for it",
        ("I10",),
        Edit(delivery.Delivery.waits, "for wait in waits:", "for wait in waits[:1]:"),
        seeds=60,
        world=WAITS,
    ),
    mutant(
        "a wait looks back too far",
        ("I10",),
        Edit(delivery.look_back_ms, "* 1000)", "* 1000) + 60_000"),
        world=WAITS,
    ),
    mutant(
        "the inbox row of a matched event is not consumed",
        ("I10", "I13", "I14"),
        Edit(Inbox._decide, "turn.facts_done.append(row.number)", "pass"),
        world=CALM,
    ),
    # ---- I11: keys and causes
    mutant(
        "keys are not written",
        ("I11",),
        Edit(Commits._unit, 'key = run.id if run.seq == 0 else ""', 'key = ""'),
        world=WAITS,
    ),
    mutant(
        "every run frees its key when it ends",
        ("I11",),
        Edit(ending._end, "state is RunState.CANCELLED and bool(run.id)", "bool(run.id)"),
        world=WAITS,
    ),
    mutant(
        "an event starts one run per engine",
        ("I11",),
        Edit(delivery.Delivery._start, "run_id not in started", "run_id not in started and not self._books.by_number"),
        world=CALM,
    ),
    # ---- I12: the journal is the state
    mutant(
        "the loss of an attempt is not journaled",
        ("I12",),
        Edit(
            machine.lose_attempt,
            "turn.emit(AttemptLost(step.path, step.attempt, turn.unix_ms, host))",
            "step.losses += 1",
        ),
        world=HOSTS,
    ),
    mutant(
        "a rebuilt run forgets its branches that ended",
        ("I12", "I6"),
        Edit(
            fold.rebuild,
            "run.fresh.clear()",
            "run.fresh.clear()\n    for group in run.groups.values():\n        group.ended_branches.clear()",
        ),
    ),
    # ---- I13, I14: leftovers and progress
    mutant(
        "ended runs stay in memory",
        ("I12", "I13", "I14"),
        Edit(Commits._finish, "self._books.remove(run)", "pass"),
        world=CALM,
    ),
    mutant(
        "waits stay in the store when their run ends",
        ("I13",),
        Edit(SideChanges.change_run, "self.waits_over.add(run)", "pass"),
        world=CALM,
    ),
    mutant(
        "a host sends nothing again that was not acked",
        ("I14", "I1"),
        Edit(HostSession.receive, "self._resend = deque(self._unacked)", "pass"),
        world=CUTS,
    ),
    mutant(
        "a host begins what it was given ahead although no slot is free",
        ("I4",),
        Edit(HostSession.begin_waiting, "self.slots - len(self._attempts)", "self.slots"),
        world=CROWD,
    ),
    mutant(
        "what a lost host executed is given to nobody",
        ("I18", "I14"),
        Edit(machine.lose_attempt, "turn.planned.append(step)", "pass"),
        world=HOSTS,
    ),
)
