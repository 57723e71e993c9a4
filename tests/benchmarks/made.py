"""Lines as a session would write them."""

from __future__ import annotations

from benchmarks.lines import Line, Measurement, Session, Skipped, Subject
from benchmarks.medians import Results, results


def session(**changes: object) -> Session:
    given: dict[str, object] = {
        "date": "2026-11-21",
        "machine": {"cores": "2", "python": "3.11.7"},
        "file_system": "ext4",
        "repeat": 3,
    }
    return Session(**{**given, **changes})  # type: ignore[arg-type]


def subject(name: str) -> Subject:
    return Subject(name=name, version="1.0", topology="a process", durability=f"durable as {name} is")


def measured(workload: str, subject: str = "stepwire", size: int = 0, **figures: float) -> Measurement:
    return Measurement(workload=workload, subject=subject, round=1, size=size, figures=figures)


def work(name: str, subject: str, seconds: float, cpu_us: float) -> Measurement:
    """1,000 steps in so many seconds."""
    figures = {"steps": 1000.0, "seconds": seconds, "steps_per_s": 1000 / seconds, "cpu_us": cpu_us}
    return measured(name, subject, **figures, run_p50_ms=seconds * 1000)


def some() -> Results:
    """Something of everything."""
    lines: list[Line] = [
        session(),
        subject("stepwire"),
        subject("restate"),
        Skipped(subject="inngest", reason="no server binary"),
        measured("group_100", steps_per_s=50_000, engine_cpu_us=12, host_cpu_us=11),
        measured("sequence_curve", size=1, run_p50_ms=2, engine_cpu_us=800, host_cpu_us=500),
        measured("sequence_curve", size=1000, run_p50_ms=900, engine_cpu_us=400, host_cpu_us=300),
        work("w3", "stepwire", 0.5, 20),
        work("w3", "restate", 6.0, 400),
    ]
    return results(lines)
