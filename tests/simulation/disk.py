"""Storage with a synced and an unsynced part: the store of the engine plus what was written and may be lost.

Batches are written as they come and synced in groups, as the journal thread of SQLite does it. A reader sees what is
synced, and nothing is answered before. A crash keeps some first part of what was not synced, in order; nobody may
conclude anything from that. Full, the disk takes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stepwire_engine.core.books import Commit
from stepwire_engine.core.units import Receipt, UnitOutcome
from stepwire_engine.store.base import JournalRow, StoreCorrupt
from stepwire_engine.store.memory import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.simulator import World

Done = Callable[[list[Commit], list[Receipt]], None]


class SimStore(MemoryStore):
    """The synced part. Journals of some runs can be unreadable, whatever is written behind."""

    def __init__(self) -> None:
        super().__init__(notify=lambda then: then())
        self.damaged: set[int] = set()

    def journal(self, run: int) -> Sequence[JournalRow]:
        if run in self.damaged:
            raise StoreCorrupt(f"run number {run}: row 1 has a wrong check value")
        return super().journal(run)

    def written(self, run: int) -> Sequence[JournalRow]:
        """What was written, for whoever judges."""
        return super().journal(run)


class Disk:
    """The way of batches into the store.

    Attributes:
        full_until: Nothing is taken before.
        refuse_next: The next sync fails, and everything in it is refused.
    """

    def __init__(self, world: World, store: SimStore) -> None:
        self._world = world
        self.store = store
        self.full_until = 0.0
        self.refuse_next = False
        self._unsynced: list[tuple[list[Commit], Done]] = []
        self._syncing = False
        self._told_at = 0.0
        self._refused_runs: set[int | None] = set()

    def write(self, batch: list[Commit], done: Done) -> None:
        """Take a batch; `done` is told the receipts once they are true, unless the process is gone by then."""
        self._unsynced.append((batch, done))
        self._begin_sync()

    def _begin_sync(self) -> None:
        if self._syncing or not self._unsynced:
            return
        self._syncing = True
        group, rng = len(self._unsynced), self._world.rng
        if group > 1:
            self._world.note("several batches in one sync")
        engine = self._world.engine
        engine.at(rng.uniform(0.001, 0.05), lambda: self._synced(group))

    def _synced(self, group: int) -> None:
        """The batches of a group are safe, or all refused; the rest that was written meanwhile is next."""
        engine, rng = self._world.engine, self._world.rng
        batches, self._unsynced = self._unsynced[:group], self._unsynced[group:]
        self._syncing = False
        refusal = self._refusal()
        answers = [self._apply(batch, refusal) for batch, _ in batches]
        engine.may_crash("crash after commit")
        if engine.core is None:
            return
        # The loop is told later, in order: until then readers see more than the core knows of.
        now = self._world.now
        self._told_at = max(self._told_at, now + rng.choice([0.0, 0.0, rng.uniform(0.0, 0.02)]))
        engine.at(self._told_at - now, lambda: self._answer([done for _, done in batches], answers))
        self._begin_sync()

    @property
    def full(self) -> bool:
        return self._world.now < self.full_until

    def _refusal(self) -> UnitOutcome | None:
        """How this sync fails, if it does."""
        world = self._world
        chance = world.refusals if world.now < world.horizon else 0.0
        if self.full:
            world.note("commit refused while the disk is full")
            refusal = UnitOutcome.NO_SPACE
        elif self.refuse_next or (chance and world.rng.random() < chance):
            self.refuse_next = False
            refusal = UnitOutcome.REFUSED
        else:
            return None
        world.note("commit refused")
        world.disturbances += 1
        world.disturbed(world.now)
        return refusal

    def _apply(self, batch: list[Commit], refusal: UnitOutcome | None) -> tuple[list[Commit], list[Receipt]]:
        if refusal is not None:
            self._refused_runs.update([commit.unit.run for commit in batch])
            return batch, [Receipt(refusal, reason="no space left")] * len(batch)
        return batch, self.keep(batch)

    def _answer(self, told: Sequence[Done], answers: Sequence[tuple[list[Commit], list[Receipt]]]) -> None:
        for done, (batch, receipts) in zip(told, answers, strict=True):
            done(batch, receipts)

    def keep(self, batch: list[Commit]) -> list[Receipt]:
        """The batch is durable from now on."""
        world = self._world
        receipts: list[Receipt] = []
        self.store.submit([commit.unit for commit in batch], receipts.extend)
        for commit, receipt in zip(batch, receipts, strict=True):
            assert receipt.outcome is not UnitOutcome.STALE_CLAIM, "I5: a dead engine commits"
            if receipt.outcome is UnitOutcome.SEQ_CONFLICT:
                assert commit.unit.run in self._refused_runs, f"I5: {commit.unit} does not follow"
            if receipt.outcome is UnitOutcome.COMMITTED:
                world.truth.woke(commit)
                world.truth.committed(commit, receipt, world.now, world.generation)
            else:
                self._refused_runs.add(commit.unit.run)
                world.note(f"unit {receipt.outcome.value}")
        return receipts

    def crash(self) -> None:
        """The process that wrote is gone: of what was not synced, some first part is there."""
        if self._unsynced and not (self.refuse_next or self.full):
            kept = self._world.rng.randint(0, len(self._unsynced))
            for batch, _ in self._unsynced[:kept]:
                self.keep(batch)
            if kept:
                self._world.note("crash with a commit that survived")
            if 0 < kept < len(self._unsynced):
                self._world.note("crash between two commits that were not synced")
        self._unsynced = []
        self._syncing = False
        self._refused_runs = set()
