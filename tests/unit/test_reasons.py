"""The run in memory adds to the record why it waits; a dormant run's journal says as much."""

from __future__ import annotations

import pytest

from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import (
    CALL_STEP,
    Call,
    Event,
    GroupOpened,
    Invoke,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    StepSpec,
    WaitEvent,
)
from stepwire_engine.core import causes
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import StepStateView
from stepwire_engine.core.model import RunPhase
from stepwire_engine.core.reasons import WaitReason
from tests.unit.story import BROKEN, IN_RACE, IN_WAIT, Story, named, performed


def test_a_leased_step_is_running() -> None:
    story = Story()
    story.plan(*named("a"))
    story.enter()
    story.lease("a")
    step = story.step("a")
    assert (step.state, step.reason) == (StepStateView.RUNNING, WaitReason.LEASE_OF_HOST)
    assert (story.view().reason, story.view().live_body) == (WaitReason.LEASE_OF_HOST, True)
    assert story.step("a", live=False).state is StepStateView.PENDING


def test_an_outcome_that_is_not_committed_is_not_shown() -> None:
    story = Story()
    story.plan(*named("a"))
    committed = list(story.rows)
    story.result("a")
    view = story.view(rows=committed)
    assert (view.steps[0].state, view.steps[0].output, view.steps[0].reason) == (
        StepStateView.RUNNING,
        None,
        WaitReason.IN_COMMIT,
    )


@pytest.mark.parametrize(
    ("served", "reason"), [(True, WaitReason.NO_SLOT), (False, WaitReason.NO_HOST)], ids=["served", "not served"]
)
def test_a_registered_step_waits_for_a_slot_or_for_a_host(served: bool, reason: WaitReason) -> None:
    story = Story()
    story.plan(StepPlanned("charge", StepKind.TASK, "charge"))
    story.enter()
    if not served:
        story.served.discard(("step", "charge"))
    assert story.step("charge").reason is reason
    assert story.view().reason is reason


def test_a_closure_waits_for_a_host_of_its_flow() -> None:
    story = Story()
    story.plan(*named("a"))
    assert story.step("a").reason is WaitReason.NO_SLOT
    story.served.clear()
    assert story.step("a").reason is WaitReason.NO_HOST


def test_a_step_whose_plan_is_being_committed_waits_for_that() -> None:
    story = Story()
    story.plan(*named("a"))
    story.run.committed_seq -= 1
    assert (story.step("a").reason, story.view().reason) == (WaitReason.IN_COMMIT, WaitReason.IN_COMMIT)


def test_a_retry_waits_for_its_time_and_then_for_a_slot() -> None:
    story = Story()
    story.plan(*named("a"))
    story.result("a", failure=BROKEN)
    assert (story.step("a").state, story.step("a").reason) == (StepStateView.BACKOFF, WaitReason.BACKOFF_UNTIL)
    story.ms += 3_600_000
    assert (story.step("a").state, story.step("a").reason) == (StepStateView.BACKOFF, WaitReason.NO_SLOT)


def test_an_outcome_waits_for_its_wave_only_in_wait_mode() -> None:
    story = Story()
    story.plan(
        *named("parallel/[0]/a", "parallel/[1]/b", "race/[0]/a", "race/[1]/b"),
        groups=[IN_WAIT, IN_RACE],
    )
    story.result("parallel/[0]/a")
    story.result("race/[0]/a")
    assert story.step("parallel/[0]/a").state is StepStateView.SUCCEEDED
    assert story.step("parallel/[0]/a").reason is WaitReason.SIBLING_IN_WAVE
    assert story.step("race/[0]/a").reason is None
    story.result("parallel/[1]/b")
    assert story.step("parallel/[0]/a").reason is None


def test_a_run_without_open_steps_waits_for_its_body_or_user_code() -> None:
    story = Story()
    assert story.view().reason is WaitReason.NO_SLOT
    story.enter()
    assert story.view().reason is WaitReason.USER_CODE
    story.run.body = None
    story.served.clear()
    assert story.view().reason is WaitReason.NO_HOST


def test_after_a_restart_runs_and_steps_wait_for_adoption() -> None:
    story = Story()
    story.plan(*named("a"))
    story.run.uncertain = story.run.steps["a"].uncertain = True
    assert (story.view().reason, story.step("a").reason) == (WaitReason.ADOPTION, WaitReason.ADOPTION)


@pytest.mark.parametrize(
    ("spec", "reason", "name", "due_ms"),
    [
        (Sleep(duration=60.0), WaitReason.SLEEPING_UNTIL, "", 1_062_000),
        (Sleep(until_ms=5_000_000), WaitReason.SLEEPING_UNTIL, "", 5_000_000),
        (WaitEvent("paid"), WaitReason.EVENT, "paid", None),
        (WaitEvent("paid", timeout=0.5), WaitReason.EVENT, "paid", 1_002_500),
        (Invoke("ship"), WaitReason.CHILD_RUN, "ship", None),
    ],
    ids=["sleep", "sleep until", "wait", "wait with timeout", "invoke"],
)
def test_steps_that_nobody_executes_say_what_they_wait_for_and_until_when(
    spec: StepSpec, reason: WaitReason, name: str, due_ms: int | None
) -> None:
    story = Story()
    story.plan(performed("pause", spec))
    story.served.clear()
    step = story.step("pause")
    assert (step.reason, step.name, step.due_at_ms) == (reason, name, due_ms)
    assert story.view().reason is reason, "the run needs no host as long as it waits for that"


@pytest.mark.parametrize("steps", [True, False])
def test_a_dormant_run_is_waiting_and_its_journal_says_for_what(steps: bool) -> None:
    story = Story()
    story.plan(performed("pause", Sleep(duration=60.0)))
    view = story.view(live=False, waiting=True, steps=steps)
    assert (view.state, view.reason, view.phase) == (RunState.WAITING, WaitReason.SLEEPING_UNTIL, RunPhase.BODY)
    assert [(step.reason, step.due_at_ms) for step in view.steps] == (
        [(WaitReason.SLEEPING_UNTIL, 1_062_000)] if steps else []
    )
    assert story.view(waiting=True).state is RunState.RUNNING, "it woke up after its record was read"
    story.run.broken = True
    assert story.view(waiting=True).state is RunState.WAITING, "it is only waking up"


def test_a_step_is_named_after_what_it_is_about() -> None:
    story = Story()
    url = "https://user:secret@api.example/v1/charges?key=secret#part"
    story.plan(
        StepPlanned("charge", StepKind.TASK, "charge"),
        performed("tell", SendEvent((Event("paid"), Event("paid"), Event("shipped")))),
        StepPlanned("http", StepKind.CALL, CALL_STEP, spec=Call(url, "POST")),
        StepPlanned("bad", StepKind.CALL, CALL_STEP, spec=Call("https://[half")),
    )
    names = {step.path: step.name for step in story.view().steps}
    assert names == {
        "charge": "charge",
        "tell": "paid, shipped",
        "http": "POST https://api.example/v1/charges",
        "bad": "GET (an address that cannot be read)",
    }


def test_a_call_waits_for_the_host_that_is_built_in() -> None:
    story = Story()
    story.plan(StepPlanned("http", StepKind.CALL, CALL_STEP, spec=Call("https://api.example/")))
    assert story.step("http").reason is WaitReason.NO_HOST
    story.served.add(("step", CALL_STEP))
    assert story.step("http").reason is WaitReason.NO_SLOT


def test_an_invoke_step_names_its_last_child() -> None:
    story = Story()
    story.plan(performed("ship", Invoke("ship")))
    assert story.step("ship").child_run_id == causes.child_run_id("r1", "ship", 1)
    story.result("ship", failure=BROKEN)
    assert story.step("ship").child_run_id == causes.child_run_id("r1", "ship", 1), "the second one has not begun"
    story.result("ship")
    assert story.step("ship", live=False).child_run_id == causes.child_run_id("r1", "ship", 2)


def test_a_child_with_a_key_is_known_to_memory_only() -> None:
    """Another run may have had the key; then that one is waited for."""
    story = Story()
    story.plan(performed("ship", Invoke("ship", "ship-17")))
    particulars = story.run.steps["ship"].particulars
    assert particulars is not None
    particulars.child = "r0"
    assert (story.step("ship").child_run_id, story.step("ship", live=False).child_run_id) == ("r0", "")


def test_a_backoff_and_a_deadline_say_when_they_end() -> None:
    story = Story()
    story.plan(*named("a"), StepPlanned("b", deadline=0.5))
    story.result("a", failure=BROKEN)
    story.result("b", failure=BROKEN)
    assert story.step("a").due_at_ms == story.run.steps["a"].retry_at_ms
    assert story.step("b").due_at_ms == 1_002_500, "its deadline is nearer than its next attempt"
    story.result("a")
    assert story.step("a").due_at_ms is None


def test_a_step_that_is_over_its_deadline_has_failed_while_its_attempt_goes_on() -> None:
    story = Story()
    story.plan(StepPlanned("a", deadline=0.5))
    story.enter()
    lease = story.lease("a")
    story.expire("a")
    lease.cancelled = CancelReason.TIMEOUT
    step = story.step("a")
    assert (step.state, step.reason) == (StepStateView.FAILED, WaitReason.ATTEMPT_NOT_STOPPING)


def test_an_attempt_that_was_told_to_stop_keeps_the_next_one_waiting() -> None:
    story = Story()
    story.plan(*named("a"))
    story.enter()
    story.lease("a").cancelled = CancelReason.TIMEOUT
    step = story.step("a")
    assert (step.state, step.reason) == (StepStateView.RUNNING, WaitReason.ATTEMPT_NOT_STOPPING)
    assert story.view().reason is WaitReason.ATTEMPT_NOT_STOPPING


def test_a_step_waits_for_the_limit_of_its_group() -> None:
    story = Story()
    story.plan(*named("parallel/[0]/a"), groups=[GroupOpened("parallel", 2, limit=1)])
    story.run.steps["parallel/[0]/a"].waits_for_group = True
    assert story.step("parallel/[0]/a").reason is WaitReason.GROUP_LIMIT


def test_the_reason_of_a_run_is_that_of_its_first_open_step() -> None:
    story = Story()
    story.plan(*named("a", "b"), StepPlanned("c", StepKind.TASK, "unknown"))
    story.enter()
    story.lease("b")
    story.result("a")
    assert story.view().reason is WaitReason.LEASE_OF_HOST
    story.result("b")
    assert story.view().reason is WaitReason.NO_HOST
