"""How many processors this process may use: those of its affinity, within the quota of its cgroup."""

import math
import os
from pathlib import Path


def cores() -> int:
    """The processors that this process may use, the second threads of a core among them: for decoding."""
    return _within_quota(len(_allowed()))


def physical_cores() -> int:
    """The same without the second threads of a core: for the operators of networks."""
    found = set()
    for cpu in _allowed():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            found.add(tuple((topology / name).read_text() for name in ("physical_package_id", "core_id")))
        except OSError:
            found.add((str(cpu),))
    return _within_quota(len(found))


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _within_quota(count: int) -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return max(1, count)
