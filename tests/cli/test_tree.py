"""The tree and the lines of changes, from runs made by hand."""

from __future__ import annotations

import click
import msgspec
import pytest

from stepwire_engine.cli.documents import Group
from stepwire_engine.cli.record import record_lines
from stepwire_engine.cli.tree import change_line, changed_steps, duration_text, tree_lines
from tests.cli.made_runs import BAD, CREATED, NOW, cancelled, checkout, compensated, run_of, succeeded, undo, unfinished


def plain(lines: list[str]) -> list[str]:
    return [click.unstyle(line) for line in lines]


def test_a_run_in_the_middle() -> None:
    assert plain(tree_lines(checkout(), NOW)) == [
        "● run 01kdw0  checkout  RUNNING  5.00s",
        "├─ ✔ reserve          41ms  on orders",
        "├─ ● parallel       WAIT, 2 branches",
        "│  ├─ ✔ [0] charge   120ms  on orders",
        "│  └─ ● [1] label    5.00s  RUNNING",
        "├─ ↻ notify          5.00s  BACKOFF  on orders  host lost once  backoff_until: waits for its next attempt  "
        "ValueError: no stock",
        "└─ ○ ship            5.00s  PENDING  no_host: no connected host serves it",
    ]


def test_nested_groups_keep_branches_in_order_of_index_and_steps_in_order_of_planning() -> None:
    groups = (
        Group(path="map", mode="RACE", branches=11, verdict="OK"),
        Group(path="map/[0]/in", mode="WAIT", branches=2),
    )
    run = run_of(
        succeeded("map/[10]/b"),
        succeeded("map/[2]/b"),
        succeeded("map/[0]/z"),
        succeeded("map/[0]/in/[1]/y"),
        succeeded("map/[0]/a"),
        groups=groups,
    )
    labels = [line.split("─ ")[1].split("  ")[0] for line in plain(tree_lines(run, NOW))[1:]]
    assert labels == ["✔ map", "· [0]", "✔ z", "● in", "✔ [1] y", "✔ a", "✔ [2] b", "✔ [10] b"]


def test_a_wide_group_is_folded_and_keeps_what_did_not_succeed() -> None:
    steps = [succeeded(f"map/[{i}]/a") for i in range(1000)]
    steps[700] = unfinished("map/[700]/a", "FAILED", attempts=())
    run = run_of(*steps, groups=(Group(path="map", mode="WAIT", branches=1000),))
    lines = plain(tree_lines(run, NOW, siblings_max=4))
    assert len(lines) == 1 + 1 + 4
    assert any("✘ [700] a" in line for line in lines)
    assert lines[-1].endswith("997 more: 997 SUCCEEDED")
    assert len(tree_lines(run, NOW)) == 1 + 1 + 1000


def test_what_is_undone_stands_below_its_step_and_what_is_not_is_said_loudly() -> None:
    lines = plain(tree_lines(compensated(), NOW))
    assert lines == [
        "✘ run 01kdw0  checkout  FAILED  5.00s  1 NOT UNDONE",
        "├─ ✔ reserve          41ms  on orders",
        "│  └─ ✘ undo          10ms  UNDO FAILED  on orders  ValueError: no stock",
        "└─ ✘ parallel       WAIT, 2 branches  FAILED  1 OK, 1 FAILED",
        "   ├─ ✔ [0] charge   120ms  on orders",
        "   │  └─ ✔ undo       10ms  on orders",
        "   └─ ✘ [1] label    5.00s  FAILED",
    ]
    assert change_line(undo("reserve", failed=True), "10:42:07", NOW) == (
        "10:42:07  reserve#undo  \x1b[31m\x1b[1mUNDO FAILED\x1b[0m  attempt 1  10ms  ValueError: no stock"
    )
    assert plain(record_lines(compensated(), NOW))[-3:] == [
        "",
        "NOT UNDONE: the effects of these steps are still there",
        "  reserve  ValueError: no stock",
    ]


@pytest.mark.parametrize(
    ("phase", "more", "said"),
    [
        ("BODY", {}, ""),
        ("CANCELLING", {"reason": "attempt_not_stopping"},
         "  cancelling: what is in progress is told to stop"
         "  attempt_not_stopping: its attempt was told to stop and has not"),
        ("UNDOING", {"stopping": BAD}, "  undoing: completed steps are compensated  ValueError: no stock"),
    ],
)  # fmt: skip
def test_the_title_says_what_a_run_is_doing(phase: str, more: dict[str, object], said: str) -> None:
    assert plain(tree_lines(run_of(phase=phase, **more), NOW)) == [f"● run 01kdw0  checkout  RUNNING  5.00s{said}"]


def test_waiting_steps_say_for_what_and_until_when() -> None:
    due = NOW.replace(hour=9)
    run = run_of(
        unfinished("nap", "PENDING", "sleeping_until", due_at=due),
        unfinished("paid", "PENDING", "event", name="order/paid", due_at=due),
        unfinished("any", "PENDING", "event", name="order/\x1bpaid"),
        unfinished("ship", "PENDING", "child_run", name="ship", child_run_id="01kdc0"),
        unfinished("again", "BACKOFF", "backoff_until", due_at=due),
        cancelled("stuck", reason="attempt_not_stopping"),
        succeeded("sent", child_run_id="01kdc1"),
    )
    texts = [line.partition("5.00s  ")[2] or line.partition("  1.00s  ")[2] for line in plain(tree_lines(run, NOW))[1:]]
    assert texts[:6] == [
        "PENDING  sleeping_until: sleeps until 2026-01-01 09:00:05Z",
        "PENDING  event: waits for order/paid until 2026-01-01 09:00:05Z",
        "PENDING  event: waits for order/paid",
        "PENDING  child_run: waits for run 01kdc0",
        "BACKOFF  backoff_until: waits for its next attempt until 2026-01-01 09:00:05Z",
        "CANCELLED  attempt_not_stopping: its attempt was told to stop and has not",
    ]
    assert plain(tree_lines(run, NOW))[-1].endswith("on orders  run 01kdc1")


def test_groups_show_their_policies_and_their_branches_how_they_ended() -> None:
    race = Group(
        path="race", mode="RACE", branches=4, fail="all", cancel_siblings=True, limit=2, verdict="OK",
        names=("fast", "slow", "label", "odd"), outcomes=("OK", "CANCELLED", "FAILED", "CANCELLED"),
    )  # fmt: skip
    late = Group(
        path="late", mode="WAIT", branches=3, fail="quorum", quorum=2, expired=True, outcomes=("OK", None, None)
    )
    run = run_of(
        succeeded("race/[0]/a"),
        succeeded("race/[0]/b"),
        cancelled("race/[1]/a"),
        succeeded("race/[2]/label"),
        groups=(race, late),
    )
    assert plain(tree_lines(run, NOW)) == [
        "● run 01kdw0  checkout  RUNNING  5.00s",
        "├─ ✔ race            RACE, 4 branches, fail=all, cancel_siblings, limit=2  1 OK, 1 FAILED, 2 CANCELLED",
        "│  ├─ ✔ [0] fast",
        "│  │  ├─ ✔ a           41ms  on orders",
        "│  │  └─ ✔ b           41ms  on orders",
        "│  ├─ ⊘ [1] slow: a   1.00s  CANCELLED",
        "│  ├─ ✔ [2] label      41ms  on orders  branch FAILED",
        "│  └─ ⊘ [3] odd      CANCELLED",
        "└─ ● late            WAIT, 3 branches, quorum=2  1 OK  deadline passed",
        "   └─ ✔ [0]",
    ]


def test_a_group_that_its_run_left_open_was_cancelled_with_it() -> None:
    run = run_of(
        cancelled("map/[0]/a"), groups=(Group(path="map", mode="WAIT", branches=9),),
        state="CANCELLED", ended_at=NOW, duration_seconds=5.0,
    )  # fmt: skip
    assert plain(tree_lines(run, NOW))[1] == "└─ ⊘ map       WAIT, 9 branches  CANCELLED"


def test_relatives_are_named() -> None:
    run = run_of(
        parent_run_id="01kdp0", successor_run_id="01kds0", state="SUCCEEDED", ended_at=NOW, duration_seconds=5.0
    )
    assert plain(tree_lines(run, NOW)) == ["✔ run 01kdw0  checkout  SUCCEEDED  5.00s  goes on as run 01kds0"]
    assert "parent   run 01kdp0" in plain(record_lines(run, NOW))


def test_a_branch_that_failed_before_its_first_step_is_not_folded_away() -> None:
    outcomes: list[str | None] = ["OK"] * 100
    outcomes[70] = "FAILED"
    run = run_of(groups=(Group(path="map", mode="WAIT", branches=100, outcomes=tuple(outcomes)),))
    lines = plain(tree_lines(run, NOW, siblings_max=4))
    assert [line.split("─ ")[1].split("  ")[0] for line in lines[2:]] == [
        "✔ [0]",
        "✔ [1]",
        "✘ [70]",
        "· 97 more: 97 SUCCEEDED",
    ]


def test_names_cannot_command_the_terminal() -> None:
    run = run_of(unfinished("a\x1b[2Jb\r\u202ec", "PENDING", "\x07"), flow="f\x1b]0;title\x07")
    for line in plain(tree_lines(run, NOW)) + plain(record_lines(run, NOW)):
        assert line.isprintable(), ascii(line)


def test_the_record_has_attempts_stats_output_and_causes() -> None:
    cause = msgspec.structs.replace(BAD, type="KeyError", message="'sku'")
    run = run_of(
        *checkout().steps, state="FAILED", ended_at=NOW, duration_seconds=5.0,
        failure=msgspec.structs.replace(BAD, cause=cause),
    )  # fmt: skip
    assert plain(record_lines(run, NOW))[6:] == [
        "└─ ○ ship            5.00s  PENDING  no_host: no connected host serves it",
        "",
        "id       order-17",
        "created  2026-01-01 00:00:00.000000Z",
        'input    {"sku": "A1"}',
        "stats    advances 3  executes 1  host_starts 4  body_entries 1  plans 3  releases 2",
        "",
        "notify:",
        "  attempt 1  20ms  on orders  ValueError: no stock",
        "",
        "failed with ValueError: no stock (user_error)",
        "  Traceback:",
        "    somewhere",
        "caused by KeyError: 'sku' (user_error)",
        "  Traceback:",
        "    somewhere",
    ]


# ---- changes


def test_changes_are_the_steps_that_are_new_or_moved() -> None:
    before = run_of(succeeded("a"), unfinished("b", "RUNNING"), unfinished("c", "PENDING"))
    after = run_of(succeeded("a"), succeeded("b"), unfinished("c", "PENDING", "no_slot"), unfinished("d", "PENDING"))
    assert [step.path for step in changed_steps(None, before)] == ["a", "b", "c"]
    assert [step.path for step in changed_steps(before, after)] == ["b", "d"]
    assert changed_steps(after, after) == []


def test_every_step_of_a_successor_is_new() -> None:
    before, after = run_of(succeeded("a")), run_of(succeeded("a"), run_id="01kds0")
    assert [step.path for step in changed_steps(before, after)] == ["a"]


def test_a_line_says_time_path_state_attempt_duration() -> None:
    assert change_line(succeeded("parallel/[0]/charge", 0.12), "10:42:07", NOW) == (
        "10:42:07  parallel/[0]/charge  SUCCEEDED  attempt 1  120ms"
    )
    assert change_line(unfinished("ship", "PENDING", "no_host"), "10:42:07", NOW) == (
        "10:42:07  ship  PENDING  attempt 1  no_host: no connected host serves it"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0411, "41ms"), (0.9994, "999ms"), (0.9996, "1.00s"), (9.996, "10.0s"), (59.94, "59.9s"),
        (59.96, "1m00s"), (3599.6, "1h00m"), (86399, "23h59m"), (86400, "1d00h"), (86400 * 12 + 5000, "12d01h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_time_before_the_start_is_no_time() -> None:
    """The clock of whoever looks may be behind the engine's."""
    early = CREATED.replace(year=2025)
    assert "  0ms" in plain(tree_lines(checkout(), early))[0]
