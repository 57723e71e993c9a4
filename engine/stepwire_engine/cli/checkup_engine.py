"""What `stepwire doctor` says about a running engine, from its ports: health, hosts, runs without one, defects.

It asks like any client and any scraper; nothing here starts, stops or changes anything.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from stepwire import client, errors
from stepwire_engine.cli.checkup import Finding, fail, ok, warn
from stepwire_engine.clock import SystemClock
from stepwire_engine.config import Config

ANSWER_SECONDS = 3.0
CLOCK_SECONDS_MAX = 5.0
"""The engine's clock and ours may differ by so much; `Date` has a resolution of one second."""
LOOKED_AT_MAX = 50
"""Open runs that are asked why they wait."""


class Answers(msgspec.Struct, frozen=True):
    """What an engine says over HTTP.

    Attributes:
        health: The answer of /healthz.
        ahead: How far its clock is ahead of ours, in seconds.
        series: Value of each series of /metrics, by name and labels.
    """

    health: dict[str, Any]
    ahead: float
    series: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        wanted = set(labels.items())
        return sum([value for (found, has), value in self.series.items() if found == name and wanted <= has])


def check_engine(address: str, http_address: str) -> Iterator[Finding]:
    """Everything about an engine that should be running, or about the ports it would take."""
    try:
        answers = ask(http_address)
    except (OSError, http.client.HTTPException, ValueError) as error:
        yield from _ports(address, http_address, str(error) or type(error).__name__)
        return
    yield _health(answers, http_address)
    yield _clocks(answers)
    yield _hosts(answers)
    yield _quarantine(answers)
    yield _owners(answers)
    yield from _waiting(address, answers)


def ask(http_address: str) -> Answers:
    """Raises OSError, HTTPException, ValueError."""
    host, _, port = http_address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        health = json.loads(answer.read())
        date = answer.getheader("date")
        ahead = 0.0 if date is None else parsedate_to_datetime(date).timestamp() - SystemClock().now().unix_ms / 1000
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    if not isinstance(health, dict) or "status" not in health:
        raise ValueError("what answers is no engine of Stepwire")
    return Answers(health, ahead, _series(text))


def _series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def _ports(address: str, http_address: str, why: str) -> Iterator[Finding]:
    yield warn("engine", f"no engine answers at http {http_address}", why, "stepwire engine")
    for name, place in (("gRPC", address), ("HTTP", http_address)):
        yield (
            ok("ports", f"{place} ({name}) is free")
            if _free(place)
            else fail(
                "ports",
                f"{place} ({name}) is in use",
                "another program listens there",
                "end it: ss -ltnp, or take another port",
            )
        )


def _free(place: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return False
    except OSError:
        return True


def _health(answers: Answers, http_address: str) -> Finding:
    status, detail = answers.health["status"], str(answers.health.get("detail", ""))
    seen = f"engine {answers.health.get('version', '')} at http {http_address} is {status}"
    match status:
        case "ok":
            return ok("engine", seen)
        case "store_full":
            return fail("engine", seen, detail, "make room on the disk of its database; it goes on by itself")
        case "store_failed":
            return fail("engine", seen, detail, "read its log; it ends, and the next one reads what was committed")
        case _:
            return warn("engine", seen, detail or "it takes no new work now", "wait until it is ok")


def _clocks(answers: Answers) -> Finding:
    if abs(answers.ahead) > CLOCK_SECONDS_MAX:
        seen = f"the engine's clock is {answers.ahead:+.0f} s off this machine's"
        return warn("clocks", seen, "times in records are the engine's", "set both clocks (NTP)")
    return ok("clocks", "the engine's clock agrees with this machine's")


def _hosts(answers: Answers) -> Finding:
    connected = {
        dict(labels)["service"]: int(value)
        for (name, labels), value in answers.series.items()
        if name == "stepwire_sessions_connected" and value
    }
    if not connected:
        return warn("hosts", "no host is connected", "nothing executes flows and steps", "stepwire host MODULE")
    return ok(
        "hosts", f"{sum(connected.values())} connected: {', '.join(f'{n} {s}' for s, n in sorted(connected.items()))}"
    )


def _quarantine(answers: Answers) -> Finding:
    aside = int(answers.total("stepwire_quarantined_runs"))
    rows = int(answers.total("stepwire_damaged_rows_total"))
    if aside or rows:
        seen = f"{aside} runs are kept aside, {rows} damaged rows were met"
        why = "rows of the database are not what was written; every other run goes on"
        return fail("damage", seen, why, "stepwire doctor FILE, where the database is; then restore a backup")
    return ok("damage", "no run is kept aside, no damaged row was met")


def _owners(answers: Answers) -> Finding:
    repaired = int(answers.total("stepwire_reconciled_total"))
    if repaired:
        why = "each was stuck until the engine put it right; that is a defect of the engine"
        return warn(
            "owners", f"{repaired} runs or steps had not exactly one owner", why, "report it, with the engine's log"
        )
    return ok("owners", "every open run has exactly one owner")


def _waiting(address: str, answers: Answers) -> Iterator[Finding]:
    count = int(answers.total("stepwire_waiting_runs", reason="no_host"))
    if not count:
        yield ok("served", "no run waits for a host that serves it")
        return
    try:
        flows = _unserved(address)
    except errors.StepwireError as error:
        yield fail("calls", f"the engine refuses calls at {address}: {error.message}", error.why, error.hint)
        return
    named = ", ".join(f"{flow} ({n})" for flow, n in flows.most_common()) or "see stepwire runs list"
    why = "no connected host serves the flow, or a step of it"
    yield warn(
        "served", f"{count} runs wait for a host: {named}", why, "start a host that serves them: stepwire host MODULE"
    )


def _unserved(address: str) -> Counter[str]:
    """Flows of runs that wait for a host, among the newest open ones."""
    flows: Counter[str] = Counter()
    with client.ClientSync(address) as opened:
        for n, run in enumerate(opened.list(states=("PENDING", "RUNNING"), limit=LOOKED_AT_MAX)):
            if n >= LOOKED_AT_MAX:
                break
            seen = opened.get(run.run_id)
            if seen.reason is not None and seen.reason.value == "no_host":
                flows[seen.flow] += 1
    return flows


def addresses(config: Config) -> tuple[str, str]:
    """Where an engine with this configuration listens: gRPC and HTTP."""
    return f"{config.grpc_host}:{config.grpc_port}", f"{config.http_host}:{config.http_port}"
