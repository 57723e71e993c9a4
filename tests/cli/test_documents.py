"""What `-o json` prints: scripts depend on it, so it is compared with golden text."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from stepwire_engine.cli import documents
from stepwire_engine.cli.documents import Listed, Runs, StepChange, line, page, value, value_line, value_text
from stepwire_engine.cli.record import record_lines
from tests.cli.made_runs import NOW, checkout, succeeded

GOLDEN = Path(__file__).parent / "golden"


def test_run_document() -> None:
    assert page(checkout()) + "\n" == (GOLDEN / "run.json").read_text(encoding="utf-8")


def test_runs_document_has_no_steps() -> None:
    short = Listed(**{name: getattr(checkout(), name) for name in Listed.__struct_fields__})
    assert page(Runs(runs=(short,), complete=False)) + "\n" == (GOLDEN / "runs.json").read_text(encoding="utf-8")


def test_step_document_is_one_line() -> None:
    change = StepChange(run_id="01kdw0", step=succeeded("reserve"))
    assert line(change) + "\n" == (GOLDEN / "step.jsonl").read_text(encoding="utf-8")


def test_a_payload_with_line_breaks_stays_on_its_line() -> None:
    step = succeeded("a", output=value(b'{\n "a": [\n1]\n}', "json"))
    text = line(StepChange(run_id="r", step=step))
    assert "\n" not in text and json.loads(text)["step"]["output"] == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (b'{"a": 1}', "json", {"a": 1}),
        (b"123456789012345678901234567890", "json", 123456789012345678901234567890),
        (b"\x00\xff", "json+aes", {"encoding": "json+aes", "base64": "AP8="}),
        (b"{broken", "json", {"encoding": "json", "base64": "e2Jyb2tlbg=="}),
        (b'"\xff"', "json", {"encoding": "json", "base64": "Iv8i"}),
    ],
)
def test_payloads_are_json_or_base64(content: bytes, encoding: str, expected: object) -> None:
    assert json.loads(value_text(value(content, encoding))) == expected


def test_control_characters_are_escaped_and_mean_the_same() -> None:
    hostile = '"\x9b2J \u202eabc \x7f \u2028"'
    text = value_text(value(hostile.encode(), "json"))
    assert text.isprintable() and json.loads(text) == hostile[1:-1]


def test_no_value_is_null() -> None:
    assert value_text(None) == "null"


def test_times_are_utc_with_z() -> None:
    assert msgspec.json.encode(documents.moment(1_767_225_600_250)) == b'"2026-01-01T00:00:00.250000Z"'
    assert documents.moment(0) is None and documents.moment(None) is None


def test_a_redacted_value_is_said_to_be_one_wherever_people_look() -> None:
    assert value_text(None, 37) == value_line(None, 37) == "(redacted, 37 bytes)"
    run = msgspec.structs.replace(checkout(), input=None, input_redacted_bytes=37)
    assert "input    (redacted, 37 bytes)" in record_lines(run, NOW)
    assert json.loads(line(run))["input_redacted_bytes"] == 37
