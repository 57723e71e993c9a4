"""`stepwire chaos`: kills an engine and hosts at random while runs are in progress, and says whether anything was lost.

It works on processes and a database of its own, in a temporary directory, and touches no other engine. What it counts
comes from a file that the hosts write. The storm is in `chaos_storm`, the judgement in `chaos_truth`.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from stepwire_engine.cli.failures import ExitCode
from stepwire_engine.cli.options import Output, color_option, duration, output_option
from stepwire_engine.cli.terminal import Color, data, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.chaos_storm import Aftermath
    from stepwire_engine.cli.chaos_truth import Findings, Line

SCHEMA = "stepwire.chaos/v1"
_SHOWN_MAX = 10


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o json` prints; times in seconds.

    Attributes:
        ok: Nothing was lost, applied twice or left over, and nothing was executed again without a cause.
        unfinished: Runs that were accepted and have not ended, or that no engine knows.
        wrong_ends: Runs that failed though they had to succeed, or the other way round.
        repeated: Attempts executed again because their host was killed or stopped with them; that is no fault.
        repeated_causelessly: Attempts executed again though their host lived.
        slowest_recovery_seconds: From the end of an engine to the next step that begins, or from that of a host to the
            repetition of what it executed.
        problems: One line each, the first few.
    """

    schema: str = SCHEMA
    ok: bool
    seed: int
    faults: Mapping[str, int]
    runs: int
    runs_failed_and_undone: int
    steps: int
    unfinished: int
    wrong_ends: int
    lost: int
    applied_twice: int
    repeated: int
    repeated_causelessly: int
    slowest_recovery_seconds: float
    problems: tuple[str, ...] = ()


@click.command()
@click.option(
    "--seconds",
    type=duration,
    metavar="DURATION",
    default=60.0,
    show_default=True,
    help="How long processes are killed; afterwards everything that is open has to end.",
)
@click.option("--hosts", type=click.IntRange(2, 20), default=3, show_default=True, help="Host processes.")
@click.option("--seed", type=int, help="Of the faults: which, whom and when.  [default: drawn and printed]")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep database, logs and the hosts' own record.  [default: a temporary one, kept if all is not well]",
)
@click.option("--forget", type=click.IntRange(1), hidden=True, help="Hosts forget to note every so-manieth result.")
@output_option
@color_option
def chaos(
    seconds: float,
    hosts: int,
    seed: int | None,
    directory: Path | None,
    forget: int | None,
    output: Output,
    color: Color,
) -> int:
    """Kill an engine and hosts of its own at random; is anything lost?

    Starts an engine and hosts in a directory of their own and keeps runs of a built-in flow open, while it kills the
    engine, kills hosts and stops hosts; engines that run elsewhere are not touched. Exit code 0: every run that was
    accepted ended as it had to, no result was lost, none was applied twice. 1: something was.
    """
    import anyio

    from stepwire_engine.cli.chaos_storm import Storm
    from stepwire_engine.cli.chaos_truth import judge, read_lines

    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    place = directory or Path(tempfile.mkdtemp(prefix="stepwire-chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise click.UsageError(f"{place} is not empty", click.get_current_context())
    say = _sayer(color)
    # What the clients say about engines that are gone belongs to the other logs.
    logging.basicConfig(filename=place / "clients.log", level=logging.INFO)
    say(f"chaos for {seconds:g} s with an engine and {hosts} hosts; repeat with --seed {seed}")
    began = time.monotonic()
    storm = Storm(place, hosts=hosts, seconds=seconds, seed=seed, say=say, forget=forget or 0)
    left = anyio.run(storm.run)
    lines = read_lines(storm.truth)
    verdict = _verdict(seed, left, judge(left.records, lines, left.absences), lines)
    if output is Output.TABLE:
        data("\n".join(_table(verdict, time.monotonic() - began)), color=wants_color(color, sys.stdout))
    else:
        from stepwire_engine.cli.documents import line, page

        data((page if output is Output.JSON else line)(verdict))
    if directory is None and verdict.ok:
        shutil.rmtree(place, ignore_errors=True)
    else:
        say(f"database, logs and the hosts' record: {place}")
    return ExitCode.OK if verdict.ok else ExitCode.RUN_FAILED


def _sayer(color: Color) -> Callable[[str], None]:
    colored = wants_color(color, sys.stderr)

    def say(text: str) -> None:
        talk(click.style(text, dim=True), color=colored)

    return say


def _verdict(seed: int, left: Aftermath, findings: Findings, lines: list[Line]) -> Verdict:
    from stepwire_engine.cli.chaos_storm import engine_recoveries
    from stepwire_engine.cli.chaos_truth import succeeds

    open_runs = [run_id for run_id in left.accepted if run_id not in left.ended]
    wrong = [run_id for run_id, fine in left.ended.items() if fine is not succeeds(left.accepted[run_id])]
    problems = [
        *left.surprises,
        *[f"run {run_id} was accepted and has not ended" for run_id in open_runs],
        *[f"run {run_id} ended as it must not" for run_id in wrong],
        *findings.lost,
        *findings.twice,
        *findings.causeless,
    ]
    begun = sorted(each.at for each in lines if each.event == "begun")
    return Verdict(
        ok=not problems and bool(left.ended),
        seed=seed,
        faults=left.faults,
        runs=len(left.ended),
        runs_failed_and_undone=sum(not fine for fine in left.ended.values()),
        steps=findings.steps,
        unfinished=len(open_runs),
        wrong_ends=len(wrong),
        lost=len(findings.lost),
        applied_twice=len(findings.twice),
        repeated=findings.repeated,
        repeated_causelessly=len(findings.causeless),
        slowest_recovery_seconds=round(max([findings.slowest_repeat, *engine_recoveries(left.down, begun)]), 3),
        problems=tuple(problems[:_SHOWN_MAX]),
    )


def _table(verdict: Verdict, seconds: float) -> list[str]:
    faults = ", ".join(f"{kind} {times} times" for kind, times in verdict.faults.items())
    rows = (
        ("faults", faults),
        ("runs completed", f"{verdict.runs}; {verdict.runs_failed_and_undone} of them failed on purpose, undone"),
        ("steps", str(verdict.steps)),
        ("runs not ended", str(verdict.unfinished)),
        ("wrong ends", str(verdict.wrong_ends)),
        ("results lost", str(verdict.lost)),
        ("applied twice", str(verdict.applied_twice)),
        ("executed again", f"{verdict.repeated}, because their host was killed or stopped with them"),
        ("without a cause", str(verdict.repeated_causelessly)),
        ("slowest recovery", f"{verdict.slowest_recovery_seconds:.2f} s"),
    )
    said = click.style("nothing was lost", fg="green") if verdict.ok else click.style("SOMETHING IS WRONG", fg="red")
    if not verdict.ok and not verdict.problems:
        said += ": no run ended"
    return [f"{name:<17} {value}" for name, value in rows] + [*verdict.problems, f"{said}, in {seconds:.0f} s"]
