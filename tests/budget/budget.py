"""What the work of `scenarios.py` may cost: counts, not seconds, so that a slow machine changes nothing.

The second table is written by `python -m tests.budget --write`, which measures anew; the first one is by hand. A count
that grew is either a mistake or has a reason: then write the table, and say the reason in the commit.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """One count of one scenario that is bounded.

    Attributes:
        count: Field of Counted; per step.
        more: How far the bound is above what was measured: a part of it, or if it ends in "!" so much.
        reason: Why it matters.
    """

    scenario: str
    count: str
    more: str
    reason: str


_STREAM = "the unit of the stream, of the disk and of a wake-up is the wave, never the step"
_CALLS = "a call of Python costs 0.05 to 0.1 us, and this is where all the time goes"
_ROWS = "a row per run and commit; what it has in it is bytes"
_GARBAGE = "what knows each other in a circle is found by the collector only, for a tenth of all processor time"

RULES = (
    # 0.9: one more call per step is too many to go unnoticed.
    Rule("group_1000", "engine_calls", "0.9!", _CALLS),
    Rule("group_1000", "host_calls", "0.9!", _CALLS),
    Rule("group_1000", "frames_in", "0!", _STREAM),
    Rule("group_1000", "frames_out", "0!", _STREAM),
    Rule("group_1000", "commits", "0!", _STREAM),
    Rule("group_1000", "rows", "0!", _ROWS),
    Rule("group_1000", "bytes", "5%", "what is journaled twice is written twice and read back"),
    Rule("group_1000", "tasks", "0.05!", "a task is 5 us: one per attempt, none per branch that only awaits a step"),
    Rule("group_1000", "garbage", "0.01!", _GARBAGE),
    Rule("group_100", "engine_calls", "10%", _CALLS),
    Rule("group_100", "host_calls", "10%", _CALLS),
    Rule("group_100", "commits", "0!", "runs that move together share commits"),
    Rule("group_100", "rows", "0!", _ROWS),
    Rule("race_1000", "engine_calls", "10%", _CALLS),
    Rule("race_1000", "host_calls", "10%", _CALLS),
    Rule("race_1000", "frames_in", "0!", _STREAM),
    Rule("race_1000", "commits", "0!", _STREAM),
    Rule("race_1000", "garbage", "0.01!", _GARBAGE),
    Rule("sequence_10", "engine_calls", "10%", _CALLS),
    Rule("sequence_10", "host_calls", "10%", _CALLS),
    Rule("sequence_10", "frames_in", "0!", "the result of a step and the plan of the next go in one frame"),
    Rule("sequence_10", "commits", "0!", "the result of a step and the plan of the next are one commit"),
    Rule("sequence_10", "rows", "0!", _ROWS),
    Rule("sequence_10", "bytes", "5%", "a row has a head of its own, here for each step"),
    Rule("sequence_10", "garbage", "0.01!", _GARBAGE),
    Rule("one_step", "engine_calls", "10%", "the latency of a short run"),
    Rule("one_step", "host_calls", "10%", "the latency of a short run"),
    Rule("one_step", "frames_in", "0!", "the latency of a short run: every frame is a round trip"),
    Rule("one_step", "frames_out", "0!", "the latency of a short run"),
    Rule("one_step", "commits", "0!", "the latency of a short run: every commit waits for the disk"),
    Rule("one_step_100", "engine_calls", "10%", "what a run costs, beside its steps"),
    Rule("one_step_100", "host_calls", "10%", "what a run costs, beside its steps"),
    Rule("one_step_100", "rows", "0!", _ROWS),
    Rule("one_step_100", "garbage", "0.1!", _GARBAGE),
    Rule("sleeps_100", "engine_calls", "10%", "steps that wait cost no more than others"),
    Rule("sleeps_100", "host_calls", "10%", "steps that wait cost no more than others"),
    Rule("sleeps_100", "frames_in", "0!", "what ends together travels together"),
    Rule("dribble_50", "engine_calls", "10%", "the smallest wave: one step"),
    Rule("dribble_50", "host_calls", "10%", "the smallest wave: one step"),
    Rule("dribble_50", "frames_in", "0!", _STREAM),
    Rule("dribble_50", "commits", "0!", _STREAM),
    Rule("held_group", "engine_objects", "10%", "what the garbage collector must walk through"),
    Rule("held_group", "engine_bytes", "10%", "at most 2 KB for an outstanding step, with what Python itself wastes"),
    Rule("held_group", "host_objects", "10%", "what the garbage collector must walk through"),
    Rule("held_group", "host_bytes", "10%", "10,000 steps at once are in every host"),
    Rule("held_runs", "engine_objects", "10%", "what the garbage collector must walk through"),
    Rule("held_runs", "engine_bytes", "10%", "at most 12 KB for a live run, with what Python itself wastes"),
)


class Ratio(NamedTuple):
    """What one scenario may cost per step, as a multiple of another one."""

    scenario: str
    of: str
    at_most: float
    reason: str


RATIOS = (
    Ratio("race_1000", "group_1000", 1.3, "RACE is one wave here as well; what it decides is per wave"),
    Ratio("group_2000", "group_200", 1.1, "ten times the work is at most eleven times the calls"),
    Ratio("dribble_200", "dribble_50", 1.1, "a small wave does not look at everything that is open"),
)
"""Of the calls of each side."""

# ---- written by `python -m tests.budget --write`; do not edit

MEASURED: dict[tuple[str, str], float] = {
    ("group_1000", "engine_calls"): 33.752,
    ("group_1000", "host_calls"): 91.194,
    ("group_1000", "frames_in"): 0.002,
    ("group_1000", "frames_out"): 0.003,
    ("group_1000", "commits"): 0.003,
    ("group_1000", "rows"): 0.003,
    ("group_1000", "bytes"): 250.515,
    ("group_1000", "tasks"): 1.001,
    ("group_1000", "garbage"): 0,
    ("group_100", "engine_calls"): 38.857,
    ("group_100", "host_calls"): 95.088,
    ("group_100", "commits"): 0.003,
    ("group_100", "rows"): 0.03,
    ("race_1000", "engine_calls"): 32.748,
    ("race_1000", "host_calls"): 91.194,
    ("race_1000", "frames_in"): 0.002,
    ("race_1000", "commits"): 0.003,
    ("race_1000", "garbage"): 0,
    ("sequence_10", "engine_calls"): 190.094,
    ("sequence_10", "host_calls"): 240.268,
    ("sequence_10", "frames_in"): 0.022,
    ("sequence_10", "commits"): 0.024,
    ("sequence_10", "rows"): 1.2,
    ("sequence_10", "bytes"): 268.1,
    ("sequence_10", "garbage"): 0,
    ("one_step", "engine_calls"): 1666,
    ("one_step", "host_calls"): 1008,
    ("one_step", "frames_in"): 2,
    ("one_step", "frames_out"): 3,
    ("one_step", "commits"): 3,
    ("one_step_100", "engine_calls"): 619.13,
    ("one_step_100", "host_calls"): 403.17,
    ("one_step_100", "rows"): 3,
    ("one_step_100", "garbage"): 0,
    ("sleeps_100", "engine_calls"): 51.98,
    ("sleeps_100", "host_calls"): 144.5,
    ("sleeps_100", "frames_in"): 0.03,
    ("dribble_50", "engine_calls"): 831.12,
    ("dribble_50", "host_calls"): 766.34,
    ("dribble_50", "frames_in"): 2.02,
    ("dribble_50", "commits"): 2.04,
    ("held_group", "engine_objects"): 4.023,
    ("held_group", "engine_bytes"): 997.245,
    ("held_group", "host_objects"): 20.046,
    ("held_group", "host_bytes"): 3339.72,
    ("held_runs", "engine_objects"): 42.054,
    ("held_runs", "engine_bytes"): 6258.128,
}
"""Per step, on Python 3.11."""
