"""A reader that takes its time: what it reads last may be newer than what it read first."""

from __future__ import annotations

from typing import Any

from stepwire_engine.core.entries import RunState
from stepwire_engine.core.reads import DormantFound, DormantPage
from stepwire_engine.scheduler.dormant import forgotten
from stepwire_engine.store.base import Store


class SlowPage:
    """A page of dormant runs whose records have been read, and their journals not yet."""

    def __init__(self, store: Store, page: DormantPage) -> None:
        self._store = store
        self._page = page
        self._records = store.list_runs(states=(RunState.WAITING,), limit=page.limit, page_token=page.page)

    def answer(self) -> DormantFound:
        """Read the rest."""
        return forgotten(self, self._page)  # type: ignore[arg-type]

    def list_runs(self, **_: object) -> object:
        return self._records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
