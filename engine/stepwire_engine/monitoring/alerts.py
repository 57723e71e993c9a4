"""Alerts and recording rules, as values: what is compared with what, for how long, and what to do then.

`deploy/prometheus/alerts_test.yml` has a case for each, which promtool runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOW = "5m"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        signal: PromQL that has a value whenever there is an engine.
        condition: What the signal is compared with.
        hold: How long that must be so, as Prometheus writes durations.
        severity: "page" wakes somebody, "ticket" waits for the day.
        summary: One line; `{{ $labels.x }}` and `{{ $value }}` are filled in.
        action: What to look at, and what to do.
    """

    name: str
    signal: str
    condition: str
    hold: str
    severity: str
    summary: str
    action: str

    @property
    def expr(self) -> str:
        """The whole expression."""
        return f"{self.signal} {self.condition}"

    def rule(self) -> dict[str, Any]:
        """What Prometheus loads."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.action},
        }


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes ahead of time: boards over many engines read it, and so do alerts."""

    name: str
    expr: str

    def rule(self) -> dict[str, Any]:
        """What Prometheus loads."""
        return {"record": self.name, "expr": self.expr}


RECORDINGS = (
    Recording("stepwire:runs_finished:rate5m", f"sum by (state) (rate(stepwire_runs_finished_total[{WINDOW}]))"),
    Recording(
        "stepwire:run_failure:ratio5m",
        f'sum(rate(stepwire_runs_finished_total{{state="failed"}}[{WINDOW}]))'
        f" / (sum(rate(stepwire_runs_finished_total[{WINDOW}])) > 0) or vector(0)",
    ),
    Recording(
        "stepwire:run_duration_seconds:p99_5m",
        f"histogram_quantile(0.99, sum by (le, flow) (rate(stepwire_run_duration_seconds_bucket[{WINDOW}])))",
    ),
    Recording("stepwire:steps_finished:rate5m", f"sum by (kind) (rate(stepwire_steps_finished_total[{WINDOW}]))"),
    Recording(
        "stepwire:schedule_to_start_seconds:p99_5m",
        f"histogram_quantile(0.99, sum by (le) (rate(stepwire_schedule_to_start_seconds_bucket[{WINDOW}])))",
    ),
)


def _p99(metric: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile(0.99, sum by ({grouped}) (rate({metric}_bucket[{WINDOW}])))"


ALERTS = (
    Alert(
        "StepwireEngineDown",
        'up{job="stepwire-engine"}',
        "== 0",
        "1m",
        "page",
        "The Stepwire engine at {{ $labels.instance }} does not answer.",
        "No run moves. See the log of its process; `stepwire doctor` checks its database.",
    ),
    Alert(
        "StepwireNoHost",
        'sum(stepwire_waiting_runs{reason="no_host"})',
        "> 0",
        "5m",
        "page",
        "{{ $value }} runs wait for a host that serves their flow or step.",
        "`stepwire runs why RUN` names the flow or step; start a host that registers it.",
    ),
    Alert(
        "StepwireNoSlot",
        "stepwire:schedule_to_start_seconds:p99_5m",
        "> 60",
        "10m",
        "ticket",
        "Attempts wait {{ $value | humanizeDuration }} for a free slot.",
        "Add hosts or slots, or look for attempts that hang.",
    ),
    Alert(
        "StepwireRunsFail",
        "stepwire:run_failure:ratio5m",
        "> 0.05",
        "10m",
        "ticket",
        "{{ $value | humanizePercentage }} of all runs fail.",
        "`stepwire runs list --state failed`; the Flow board tells which flow.",
    ),
    Alert(
        "StepwireRunsPaused",
        'sum(stepwire_runs{state="paused"})',
        "> 0",
        "5m",
        "ticket",
        "{{ $value }} runs are paused and go on only when somebody decides.",
        "`stepwire runs list --state paused`, then `stepwire runs show RUN` and `stepwire runs resume RUN`.",
    ),
    Alert(
        "StepwireRetryStorm",
        f"sum(rate(stepwire_step_retries_total[{WINDOW}]))"
        f" / (sum(rate(stepwire_attempts_total[{WINDOW}])) > 0) or vector(0)",
        "> 0.5",
        "10m",
        "ticket",
        "{{ $value | humanizePercentage }} of all attempts are followed by another.",
        "Something that steps call is down, or a change made a step fail.",
    ),
    Alert(
        "StepwireAttemptsLost",
        f"sum(increase(stepwire_attempts_lost_total[{WINDOW}]))",
        "> 10",
        "0m",
        "ticket",
        "{{ $value }} attempts lost their host within 5 minutes.",
        "Hosts crash, are killed for memory, or are cut off. The Hosts board tells the cause.",
    ),
    Alert(
        "StepwirePoison",
        "sum by (what) (increase(stepwire_poison_total[15m]))",
        "> 0",
        "0m",
        "page",
        "A {{ $labels.what }} was given up because it lost host after host.",
        "It probably kills the process that runs it: `stepwire runs list --state failed,paused`.",
    ),
    Alert(
        "StepwireTimerLag",
        _p99("stepwire_timer_lag_seconds"),
        "> 5",
        "5m",
        "ticket",
        "Sleeps, retries and timeouts fire {{ $value | humanizeDuration }} late.",
        "The engine is overloaded: see its CPU, loop lag and commits on the Engine board.",
    ),
    Alert(
        "StepwireCommitSlow",
        _p99("stepwire_commit_seconds"),
        "> 0.5",
        "5m",
        "ticket",
        "Commits take {{ $value | humanizeDuration }}.",
        "The disk is slow or shared. Every step waits for it.",
    ),
    Alert(
        "StepwireEngineLoopLag",
        _p99("stepwire_loop_lag_seconds"),
        "> 1",
        "5m",
        "page",
        "The engine's loop wakes up {{ $value | humanizeDuration }} late.",
        "It has more to do than one core can; hosts may be lost because of it.",
    ),
    Alert(
        "StepwireHostLoopLag",
        _p99("stepwire_host_loop_lag_seconds", "service"),
        "> 1",
        "5m",
        "ticket",
        "The event loop of service {{ $labels.service }} is blocked for {{ $value | humanizeDuration }} at a time.",
        "Code in an async flow or step blocks; make that step a plain function, which runs on a thread.",
    ),
    Alert(
        "StepwireDataDamaged",
        "sum(stepwire_quarantined_runs)",
        "> 0",
        "0m",
        "page",
        "{{ $value }} runs are kept aside because what the database has of them is damaged.",
        "The other runs go on. `stepwire doctor` names the rows and what to do; look at the disk.",
    ),
    Alert(
        "StepwireReconciled",
        "sum(increase(stepwire_reconciled_total[1h]))",
        "> 0",
        "0m",
        "ticket",
        "The engine found runs or steps that nothing would have moved, and put them right.",
        "Nothing is lost. It is a defect: report it with the lines of the log that say so.",
    ),
    Alert(
        "StepwireSeriesCapped",
        "max by (label) (stepwire_capped_labels)",
        "> 0",
        "0m",
        "ticket",
        "More values of label {{ $labels.label }} than are told apart; later ones count as __other__.",
        "Names of flows or services seem to be made from data. Give them fixed names.",
    ),
)


def groups() -> dict[str, Any]:
    """The rule file of Prometheus."""
    return {
        "groups": [
            {"name": "stepwire.recordings", "rules": [recording.rule() for recording in RECORDINGS]},
            {"name": "stepwire.alerts", "rules": [alert.rule() for alert in ALERTS]},
        ]
    }
