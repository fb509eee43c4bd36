"""Main memory: of the machine, of the container, of this process."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self")
_UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2**63 where there is no limit."""


def ram_mib() -> int:
    """Memory that this process may use: the machine's, or its container's limit where that is lower."""
    import psutil

    return min(psutil.virtual_memory().total >> 20, cgroup_memory_mib() or _UNLIMITED)


def free_mib() -> int:
    """Memory that is free or could be at once: the least of what the machine, the container and `ulimit -v` leave."""
    import psutil

    free = min(psutil.virtual_memory().available >> 20, ram_mib())
    limit = address_space_mib()
    if limit is not None:
        free = min(free, limit - (psutil.Process().memory_info().vms >> 20))
    container = cgroup_memory_mib()
    if container is not None:
        free = min(free, container - (cgroup_used_mib() or 0))
    return max(0, free)


def address_space_mib() -> int | None:
    """The most memory that this process may map, as `ulimit -v` sets it; None: no limit, or Windows."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY or limit >= _UNLIMITED else limit >> 20


def rss_mib() -> float:
    """Memory of this process that is in RAM now."""
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def peak_rss_mib() -> float:
    """The most that `rss_mib` has been since the start, or since `reset_peak_rss`."""
    with contextlib.suppress(OSError):  # Linux; getrusage's maximum also counts the process that started this one
        if peak := re.search(r"^VmHWM:\s+(\d+) kB", (_SELF / "status").read_text(encoding="utf-8"), re.MULTILINE):
            return int(peak[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere


def reset_peak_rss() -> bool:
    """Let `peak_rss_mib` start again from now; False where the system does not allow it, as all but Linux."""
    with contextlib.suppress(OSError):
        (_SELF / "clear_refs").write_text("5", encoding="utf-8")
        return True
    return False


def cgroup_memory_mib(root: Path = _CGROUP) -> int | None:
    """The memory limit of this container; None: no limit, or not Linux. `root` is where cgroups are mounted."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
            limit = int((root / name).read_text(encoding="utf-8"))
            return limit >> 20 if limit < _UNLIMITED else None
    return None


def cgroup_used_mib(root: Path = _CGROUP) -> int | None:
    """What this container uses of its memory, without the copies of files that are dropped when memory is wanted."""
    for folder, usage, copies in (
        (root, "memory.current", "inactive_file"),
        (root / "memory", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            used = int((folder / usage).read_text(encoding="utf-8"))
            dropped = re.search(
                rf"^{copies} (\d+)$", (folder / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE
            )
            return max(0, used - int(dropped[1] if dropped else 0)) >> 20
    return None
