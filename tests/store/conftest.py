"""Every test that takes `desk` runs on each store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwire_engine.store.base import Store
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.samples import Desk, StoreMaker, at_once, never_fails


def new_store(kind: str, path: Path) -> Store:
    match kind:
        case "memory":
            return MemoryStore(notify=at_once)
        case _:
            return SqliteStore(path / "engine.db", notify=at_once, on_failed=never_fails)


@pytest.fixture(params=["memory", "sqlite"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    store = new_store(request.param, tmp_path)
    try:
        yield Desk(store).open()
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where `make` puts its databases."""
    return tmp_path / "engine.db"


@pytest.fixture
def make(path: Path) -> Iterator[StoreMaker]:
    """Builds SQLite stores that are closed at the end."""
    stores: list[SqliteStore] = []

    def build(place: Path = path, **more: object) -> SqliteStore:
        stores.append(SqliteStore(place, **({"notify": at_once, "on_failed": never_fails} | more)))  # type: ignore[arg-type]
        return stores[-1]

    yield build
    for store in stores:
        store.close()
