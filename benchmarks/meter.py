"""What processes and the disk did while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import linux

MIB = 2**20


class Meter:
    """Between `start` and `stop`: wall time, CPU per group of processes, other processes, flushes.

    Args:
        groups: Process ids, for example of "engine" and "host"; their children belong to them. This process is the
            group "driver".
        disk: A file or folder on the disk whose flushes are counted.
    """

    def __init__(self, groups: Mapping[str, Sequence[int]], disk: Path) -> None:
        self._groups = {**groups, "driver": (os.getpid(),)}
        self._disk = disk
        self._before: dict[int, float] = {}
        self._flushes: int | None = None
        self._busy = self._began = 0.0
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self.flushes: int | None = None
        self.foreign_cores = 0.0

    def start(self) -> None:
        """Everything until `stop` counts."""
        self._flushes = linux.disk_flushes(self._disk)
        self._before = {pid: linux.cpu_seconds(pid) for pids in self._trees().values() for pid in pids}
        self._busy = linux.busy_seconds()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Take the figures. May be called again for a longer stretch."""
        self.seconds = time.perf_counter() - self._began
        busy = linux.busy_seconds() - self._busy
        self.cpu = {
            group: sum(linux.cpu_seconds(pid) - self._before.get(pid, 0.0) for pid in pids)
            for group, pids in self._trees().items()
        }
        self.foreign_cores = max(0.0, busy - sum(self.cpu.values())) / self.seconds
        flushes = linux.disk_flushes(self._disk)
        self.flushes = None if flushes is None or self._flushes is None else flushes - self._flushes

    def _trees(self) -> dict[str, list[int]]:
        measured = {group: linux.tree(pids) for group, pids in self._groups.items() if group != "driver"}
        return {**measured, "driver": [os.getpid()]}

    def figures(self, steps: int) -> dict[str, float]:
        """Per step where it makes sense."""
        made: dict[str, float] = {
            "steps": steps,
            "seconds": self.seconds,
            "steps_per_s": steps / self.seconds,
            "ms_per_step": self.seconds / steps * 1000,
            "foreign_cores": self.foreign_cores,
        }
        for group, seconds in self.cpu.items():
            made[f"{group}_cpu_us"] = seconds / steps * 1e6
        made["cpu_us"] = sum(seconds for group, seconds in self.cpu.items() if group != "driver") / steps * 1e6
        for group, pids in self._trees().items():
            if group != "driver":
                made[f"{group}_rss_mib"] = linux.peak_bytes(pids) / MIB
        if self.flushes is not None:
            made["disk_flushes"] = self.flushes
        return made
