"""The protos as a text: prefixes, comments, and nothing of any one language."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from stepwire.protocol import failure, frames, plan
from stepwire.v1 import failure_pb2, host_service_pb2, plan_pb2
from tests.protocol.protos import PROTO_FILES, ROOT, current_descriptors

FILES = {file.name: file for file in current_descriptors(source_info=True).file}
MESSAGES, ENUMS, SERVICES, FIELDS, METHODS = 4, 5, 6, 2, 2
UNITS = re.compile(
    r"(bytes|elapsed|timeout|deadline|delay|interval|ttl|lag|factor|jitter|limit|quorum|winner|page_size)"
)


def commented(file: FileDescriptorProto) -> set[tuple[int, ...]]:
    return {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}


def uncommented(file: FileDescriptorProto) -> Iterator[str]:
    present = commented(file)
    for i, message in enumerate(file.message_type):
        if (MESSAGES, i) not in present:
            yield message.name
        for j, field in enumerate(message.field):
            unit = UNITS.search(field.name) or field.type_name.endswith((".Duration", ".Timestamp"))
            group_commented = any((MESSAGES, i, FIELDS, k) in present for k in (j, max(0, j - 1)))
            if (
                unit
                and not group_commented
                and file.name.endswith(("plan.proto", "host_service.proto", "failure.proto"))
            ):
                yield f"{message.name}.{field.name}"
    for i, enum in enumerate(file.enum_type):
        if (ENUMS, i) not in present:
            yield enum.name
    for i, service in enumerate(file.service):
        if (SERVICES, i) not in present:
            yield service.name
        for j, method in enumerate(service.method):
            if (SERVICES, i, METHODS, j) not in present:
                yield f"{service.name}.{method.name}"


@pytest.mark.parametrize("name", FILES)
def test_everything_is_documented(name: str) -> None:
    assert list(uncommented(FILES[name])) == []


@pytest.mark.parametrize("name", FILES)
def test_enums_are_prefixed_and_start_with_unspecified(name: str) -> None:
    for enum in FILES[name].enum_type:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        assert [value.name for value in enum.value if not value.name.startswith(prefix)] == []
        assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}UNSPECIFIED", 0)


@pytest.mark.parametrize("name", FILES)
def test_package_and_folder_agree(name: str) -> None:
    assert FILES[name].package == "stepwire.v1"
    assert name.startswith("stepwire/v1/")


@pytest.mark.parametrize("path", PROTO_FILES, ids=lambda path: path.name)
def test_no_language_is_favoured(path: Path) -> None:
    words = r"\b(python|asyncio|pickle|coroutine|lambda|kwargs|dataclass|None|ValueError|self|ctx|__\w+__)\b"
    text = path.read_text(encoding="utf-8")
    assert re.findall(words, text) == []
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("values", "stub"),
    [
        (failure.ErrorCode, failure_pb2.ErrorCode),
        (failure.Retryable, failure_pb2.Retryable),
        (plan.StepKind, plan_pb2.StepKind),
        (plan.ParallelMode, plan_pb2.ParallelMode),
        (plan.FailPolicy, plan_pb2.FailPolicy),
        (plan.Backoff, plan_pb2.Backoff),
        (plan.BranchOutcome, plan_pb2.BranchOutcome),
        (plan.Verdict, plan_pb2.Verdict),
        (frames.RejectReason, host_service_pb2.RejectReason),
        (frames.CancelReason, host_service_pb2.CancelReason),
        (frames.Purpose, host_service_pb2.Purpose),
        (frames.Feature, host_service_pb2.Feature),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_and_protos_number_enums_alike(values: type, stub: object) -> None:
    items = dict(stub.items())  # type: ignore[attr-defined]
    prefix = next(name for name, number in items.items() if number == 0).removesuffix("UNSPECIFIED")
    assert {name.removeprefix(prefix): number for name, number in items.items() if number} == {
        member.name: member.value
        for member in values  # type: ignore[attr-defined]
    }


def test_the_specification_names_every_error_code() -> None:
    text = (ROOT / "proto/README.md").read_text(encoding="utf-8")
    assert [code.name for code in failure.ErrorCode if not re.search(rf"\b{code.name}\b", text)] == []


def test_stubs_are_current() -> None:
    done = subprocess.run([sys.executable, "scripts/proto.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_stubs_load_with_warnings_as_errors() -> None:
    code = "import stepwire.v1.host_service_pb2, stepwire.v1.run_service_pb2, stepwire.protocol.wire"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT / "python_sdk", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
