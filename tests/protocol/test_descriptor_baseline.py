"""The wire stays compatible with `baseline.binpb`; `python -m tests.protocol.update --baseline` accepts additions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

from tests.protocol.protos import BASELINE, current_descriptors


def breaks(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """What a peer that knows only `old` would misread, by name."""
    return [
        *_gone("message", _messages(old), _messages(new)),
        *_gone("enum", _enums(old), _enums(new)),
        *_gone("service", _services(old), _services(new)),
        *_differing_fields(_messages(old), _messages(new)),
        *_differing_values(_enums(old), _enums(new)),
        *_differing_rpcs(_services(old), _services(new)),
    ]


def _messages(files: FileDescriptorSet) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(prefix: str, messages: Sequence[DescriptorProto]) -> None:
        for message in messages:
            found[f"{prefix}.{message.name}"] = message
            walk(f"{prefix}.{message.name}", message.nested_type)

    for file in files.file:
        walk(file.package, file.message_type)
    return found


def _enums(files: FileDescriptorSet) -> dict[str, Any]:
    return {f"{file.package}.{enum.name}": enum for file in files.file for enum in file.enum_type}


def _services(files: FileDescriptorSet) -> dict[str, Any]:
    return {f"{file.package}.{service.name}": service for file in files.file for service in file.service}


def _gone(kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{kind} {name} is gone" for name in sorted(old.keys() - new.keys())]


def _differing_fields(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in old.keys() & new.keys():
        present = {field.name: field for field in new[name].field}
        reserved = {number for part in new[name].reserved_range for number in range(part.start, part.end)}
        for field in old[name].field:
            now = present.get(field.name)
            if now is None and field.number in reserved:
                continue
            if now is None:
                yield f"field {name}.{field.name} = {field.number} is gone and not reserved"
            elif _shape(field) != _shape(now):
                yield f"field {name}.{field.name} was {_shape(field)} and is {_shape(now)}"


def _shape(field: FieldDescriptorProto) -> tuple[object, ...]:
    label = FieldDescriptorProto.Label.Name(field.label)
    kind = FieldDescriptorProto.Type.Name(field.type)
    oneof = field.HasField("oneof_index")
    return (field.number, label, kind, field.type_name, field.proto3_optional, oneof)


def _differing_values(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in old.keys() & new.keys():
        present = {value.name: value.number for value in new[name].value}
        for value in old[name].value:
            if present.get(value.name) != value.number:
                yield f"enum value {value.name} was {value.number} and is {present.get(value.name, 'gone')}"


def _differing_rpcs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in old.keys() & new.keys():
        present = {rpc.name: rpc for rpc in new[name].method}
        for rpc in old[name].method:
            if rpc.name not in present:
                yield f"rpc {name}.{rpc.name} is gone"
            elif present[rpc.name].SerializeToString() != rpc.SerializeToString():
                yield f"rpc {name}.{rpc.name} has another request, response or streaming"


def baseline() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(BASELINE.read_bytes())


def test_the_protos_are_compatible_with_the_baseline() -> None:
    assert breaks(baseline(), current_descriptors()) == []


def test_the_baseline_is_current() -> None:
    """Otherwise what was added since could be changed again without notice."""
    assert breaks(current_descriptors(), baseline()) == [], "run `python -m tests.protocol.update --baseline`"


def _field(files: FileDescriptorSet, message: str, name: str) -> Any:
    return next(field for field in _messages(files)[f"stepwire.v1.{message}"].field if field.name == name)


def _delete(items: Any, name: str) -> object:
    items.remove(next(item for item in items if item.name == name))
    return items


MUTATIONS: dict[str, Callable[[FileDescriptorSet], object]] = {
    "field stepwire.v1.Plan.plan_seq = 1 is gone": lambda f: _delete(
        _messages(f)["stepwire.v1.Plan"].field, "plan_seq"
    ),
    "field stepwire.v1.Result.attempt was": lambda f: setattr(_field(f, "Result", "attempt"), "number", 99),
    "field stepwire.v1.Result.path was": lambda f: setattr(_field(f, "Result", "path"), "type", 12),
    "field stepwire.v1.Plan.steps was": lambda f: setattr(_field(f, "Plan", "steps"), "label", 1),
    "field stepwire.v1.Plan.fence was": lambda f: setattr(_field(f, "Plan", "fence"), "type_name", ".stepwire.v1.Plan"),
    "enum value PURPOSE_UNDO was 2 and is gone": lambda f: _delete(
        _enums(f)["stepwire.v1.Purpose"].value, "PURPOSE_UNDO"
    ),
    "enum stepwire.v1.Purpose is gone": lambda f: [
        _delete(file.enum_type, "Purpose") for file in f.file if any(enum.name == "Purpose" for enum in file.enum_type)
    ],
    "message stepwire.v1.Report is gone": lambda f: [
        _delete(file.message_type, "Report") for file in f.file if any(m.name == "Report" for m in file.message_type)
    ],
    "rpc stepwire.v1.RunService.Get is gone": lambda f: _delete(_services(f)["stepwire.v1.RunService"].method, "Get"),
    "rpc stepwire.v1.HostService.Session has": lambda f: setattr(
        _services(f)["stepwire.v1.HostService"].method[0], "server_streaming", False
    ),
}


@pytest.mark.parametrize("expected", MUTATIONS)
def test_a_break_is_named(expected: str) -> None:
    changed = current_descriptors()
    MUTATIONS[expected](changed)
    found = breaks(current_descriptors(), changed)
    assert any(line.startswith(expected) for line in found), found


def test_additions_pass() -> None:
    changed = current_descriptors()
    _messages(changed)["stepwire.v1.Plan"].field.add(name="later", number=900, type=9, label=1)
    _enums(changed)["stepwire.v1.Purpose"].value.add(name="PURPOSE_LATER", number=9)
    _services(changed)["stepwire.v1.RunService"].method.add(name="Later")
    changed.file[0].message_type.add(name="Later")
    assert breaks(current_descriptors(), changed) == []


def test_a_reserved_number_may_replace_a_field() -> None:
    changed = current_descriptors()
    plan = _messages(changed)["stepwire.v1.Plan"]
    _delete(plan.field, "abandoned")
    plan.reserved_range.add(start=6, end=7)
    assert breaks(current_descriptors(), changed) == []
