"""What Linux says about processes, cores and disks (/proc, /sys)."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, ended ones included; 0 if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): exact, while /proc counts ticks of 10 ms
    except OSError:
        return 0.0


def busy_seconds() -> float:
    """What all processes and the kernel used of all cores since the machine was started."""
    with open("/proc/stat") as text:
        user, nice, system, _idle, _wait, irq, soft, *_ = map(int, text.readline().split()[1:])
    return (user + nice + system + irq + soft) * _TICK_SECONDS


def tree(roots: Iterable[int]) -> list[int]:
    """Processes and their descendants."""
    parents = dict(_parents())
    found = list(roots)
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield int(name), int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return _kib(f"/proc/{pid}/status", "VmRSS:")


def peak_bytes(pids: list[int]) -> int:
    """Most resident memory a process ever had; of several, which share pages, the sum of their shares now."""
    if len(pids) == 1:
        return _kib(f"/proc/{pids[0]}/status", "VmHWM:")
    return sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids)


def _kib(path: str, name: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    mounts = [line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = {mount.split()[4]: source.split()[0] for mount, _, source in mounts}
    return found[max((point for point in found if folder.resolve().is_relative_to(point)), key=len)]


def disk_flushes(folder: Path) -> int | None:
    """Cache flushes the disk under `folder` has completed; None if the kernel does not say."""
    device = os.stat(folder).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(fields[15])
    except (OSError, IndexError):
        return None


def processor() -> str:
    """Its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib() -> float:
    """Of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
