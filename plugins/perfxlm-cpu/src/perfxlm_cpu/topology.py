"""What this process may use of the machine: cores, memory, caches, and their names.

Every function takes the root of the file system, so that tests can describe other machines.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def allowed_cpus() -> frozenset[int]:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(cpus: frozenset[int], root: Path = _ROOT) -> int:
    """Cores behind these logical processors: siblings of one core count once."""
    cores = set()
    for cpu in cpus:
        siblings = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings if siblings is not None else str(cpu))
    return max(1, len(cores))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Cores' worth of time that the control groups grant; None if they set no limit."""
    limits = []
    for folder in _cgroup_folders("cpu", root):
        quota, period = _quota_v2(folder) or _quota_v1(folder) or (-1, 1)
        if quota > 0 and period > 0:
            limits.append(quota / period)
    return min(limits, default=None)


def total_memory(root: Path = _ROOT) -> int:
    """Bytes of the machine, or of the control group if that is less."""
    limits = [limit for limit, _ in _memory_limits(root)]
    return min([_meminfo("MemTotal", root), *limits])


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can still be taken without pushing anything out but file caches."""
    left = [limit - used for limit, used in _memory_limits(root)]
    return max(0, min([_meminfo("MemAvailable", root), *left]))


def model_name(root: Path = _ROOT) -> str:
    """The processor's name for itself."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def caches(root: Path = _ROOT) -> dict[str, str]:
    """Sizes of the first processor's caches: "L1d" -> "48K"."""
    found = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        if level and kind and size and kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _cgroup_folders(controller: str, root: Path) -> Iterator[Path]:
    """This process's control groups and their parents, in both hierarchies."""
    mount = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = mount
        elif controller in controllers.split(","):
            base = mount / controllers if (mount / controllers).is_dir() else mount / controller
        else:
            continue
        inside = [part for part in path.split("/") if part]
        for depth in range(len(inside) + 1):
            yield base.joinpath(*inside[:depth])


def _quota_v2(folder: Path) -> tuple[int, int] | None:
    words = (_read(folder / "cpu.max") or "max 1").split()
    return None if words[0] == "max" else (int(words[0]), int(words[1]))


def _quota_v1(folder: Path) -> tuple[int, int] | None:
    quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return None if quota is None or period is None else (int(quota), int(period))


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group that limits memory; reclaimable caches are not used."""
    files = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for folder in _cgroup_folders("memory", root):
        for limit_file, used_file, cached_key in files:
            limit, used = _read(folder / limit_file), _read(folder / used_file)
            if limit is None or used is None or not limit.isdigit():
                continue
            cached = 0
            for line in (_read(folder / "memory.stat") or "").splitlines():
                key, _, value = line.partition(" ")
                cached = int(value) if key == cached_key else cached
            yield int(limit), int(used) - cached


def _meminfo(key: str, root: Path) -> int:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    names = {"MemTotal": "SC_PHYS_PAGES", "MemAvailable": "SC_AVPHYS_PAGES"}
    try:
        return os.sysconf(names[key]) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
