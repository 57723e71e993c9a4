"""Paths against `vectors/paths.json` and `vectors/paths-undo.json`, which every SDK must reproduce."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwire.protocol import paths
from stepwire.protocol.limits import NAME_BYTES_MAX
from tests.protocol.protos import VECTORS

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "paths.json").read_text(encoding="utf-8"))
UNDO: dict[str, list[Any]] = json.loads((VECTORS / "paths-undo.json").read_text(encoding="utf-8"))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@pytest.mark.parametrize("case", GOLDEN["sequences"], ids=lambda case: ascii(case["calls"])[:40])
def test_sequences_of_calls(case: dict[str, Any]) -> None:
    scope = paths.Occurrences(case.get("scope", paths.ROOT))
    if "error" in case:
        with pytest.raises(paths.InvalidName):
            for call in case["calls"]:
                scope.next_path(call)
    else:
        assert [scope.next_path(call) for call in case["calls"]] == case["paths"]


@pytest.mark.parametrize("case", GOLDEN["branches"], ids=lambda case: case["path"])
def test_branches(case: dict[str, Any]) -> None:
    assert paths.branch_path(case["group"], case["index"]) == case["path"]
    assert paths.branch_index(case["path"]) == case["index"]
    assert paths.parent(case["path"]) == case["group"]


@pytest.mark.parametrize("case", UNDO["undos"], ids=lambda case: case["step"])
def test_undos(case: dict[str, str]) -> None:
    assert paths.undo_path(case["step"]) == case["undo"]
    assert paths.undone_path(case["undo"]) == case["step"]
    assert paths.parent(case["undo"]) == paths.parent(case["step"])


@pytest.mark.parametrize("path", UNDO["no_undos"])
def test_what_is_not_the_path_of_an_undo(path: str) -> None:
    assert paths.undone_path(path) is None


@given(st.lists(NAMES | st.sampled_from(["#undo", "a#undo", "undo"]), max_size=8))
def test_no_name_gives_the_path_of_an_undo(names: list[str]) -> None:
    scope = paths.Occurrences(paths.ROOT)
    made = [scope.next_path(name) for name in names]
    assert [paths.undone_path(path) for path in made] == [None] * len(made)
    assert len({*made, *map(paths.undo_path, made)}) == 2 * len(made)


@given(st.lists(NAMES, max_size=8))
def test_different_calls_have_different_paths_and_names_come_back(names: list[str]) -> None:
    scope = paths.Occurrences("g/[0]")
    made = [scope.next_path(name) for name in names]
    assert len(set(made)) == len(made)
    for name, path in zip(names, made, strict=True):
        assert paths.parent(path) == "g/[0]"
        key, _, number = path.rpartition("/")[2].partition("#")
        assert number == "" or int(number) >= 2
        assert _decoded(key) == name


def _decoded(key: str) -> str:
    raw, out, at = key.encode(), bytearray(), 0
    while at < len(raw):
        if raw[at] == ord("%"):
            out.append(int(raw[at + 1 : at + 3], 16))
            at += 3
        else:
            out.append(raw[at])
            at += 1
    return out.decode()


def test_a_refused_name_is_not_counted() -> None:
    scope = paths.Occurrences(paths.ROOT)
    with pytest.raises(paths.InvalidName, match=str(NAME_BYTES_MAX)):
        scope.next_path("x" * 257)
    with pytest.raises(paths.InvalidName, match="valid Unicode"):
        scope.next_path("\ud800")
    assert scope.next_path("x") == "x"


@pytest.mark.parametrize("path", ["work", "[0]x", "g/[x]", "g/[0]/work"])
def test_what_is_not_a_branch_path(path: str) -> None:
    with pytest.raises(ValueError):
        paths.branch_index(path)
