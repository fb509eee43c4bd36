"""Which machine a figure was measured on, and how much memory this process holds (Linux: from /proc and /sys)."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import Any

CPU_FEATURES = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "bf16", "i8mm"),
)
"""What decides the speed of convolutions, by the kernel's names: x86 in the first two rows, ARM in the third."""
PACKAGES = (
    *("esrgan-deploy", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "ncnn"),
    *("av", "opencv-python-headless", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13"),
    *("cuda-bindings", "pycuda"),
)
WATCHED_S = 0.3
BUSY_SHARE = 0.1
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")
_UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2**63 where there is no limit."""


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system and package versions, ready for JSON.

    `cores_usable` is what scheduling affinity and the container's CPU quota leave of `cores`, and `ram_mib` the
    container's limit where that is lower than the machine's. What the system does not tell is None; most virtual
    machines tell no clocks but the one they were started with.
    """
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name", platform.machine()),
        "cpu_features": [name for name in CPU_FEATURES if name in flags],
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "clock_mhz": clocks(_CPUS, info.get("cpu MHz")),
        "cache_kib": {f"L{level}": size // 1024 for level, size in caches(_CPUS).items()},
        "ram_mib": ram_mib(),
        "cgroup": {"cores": cgroup_cores(_CGROUP), "memory_mib": cgroup_memory_mib(_CGROUP)},
        "os": _system(),
        "python": platform.python_version(),
        "packages": _package_versions(),
    }


def usable_cores() -> float:
    """Cores that this process may use: what its affinity and the CPU quota of its container leave."""
    affinity = len(os.sched_getaffinity(0))
    return min(affinity, cgroup_cores(_CGROUP) or affinity)


def ram_mib() -> int:
    """Memory that this process may use: the machine's, or its container's limit where that is lower."""
    return min(_kib(_PROC / "meminfo", "MemTotal") // 1024, cgroup_memory_mib(_CGROUP) or _UNLIMITED)


def free_mib() -> int:
    """Memory that is free or could be at once, of the machine or of `ram_mib`, where that is less."""
    return min(_kib(_PROC / "meminfo", "MemAvailable") // 1024, ram_mib())


def clocks(cpus: Path, told: str | None = None) -> dict[str, float | str | None]:
    """The first core's clock now and at most, in MHz, and the governor that sets it; None: the system does not tell.

    Args:
        cpus: the folder that the kernel describes the cores in.
        told: the clock of now by /proc/cpuinfo, for systems without that description.
    """
    folder = cpus / "cpu0/cpufreq"
    now, most = _text(folder / "scaling_cur_freq"), _text(folder / "cpuinfo_max_freq")
    return {
        "now": int(now) / 1000 if now else float(told) if told else None,
        "max": int(most) / 1000 if most else None,
        "governor": _text(folder / "scaling_governor"),
    }


def caches(cpus: Path) -> dict[int, int]:
    """Bytes of the first core's caches for data, by level; `cpus` is the folder that the kernel describes them in."""
    found = {}
    for folder in (cpus / "cpu0/cache").glob("index*"):
        level, size = _text(folder / "level"), _text(folder / "size")
        if level and size and size.endswith("K") and _text(folder / "type") != "Instruction":
            found[int(level)] = int(size[:-1]) * 1024
    return dict(sorted(found.items()))


def busy_cores(seconds: float) -> float:
    """How many cores of the machine are at work, on average over the next `seconds`, while this process waits."""
    before = _processor_times()
    sleep(seconds)
    total, idle = (now - then for now, then in zip(_processor_times(), before, strict=True))
    return (os.cpu_count() or 1) * (1 - idle / total) if total else 0.0


def disturbance() -> str | None:
    """A line on other programs where they take a share of the cores worth mentioning."""
    busy = busy_cores(WATCHED_S)
    if busy < BUSY_SHARE * usable_cores():
        return None
    return f"other programs keep {busy:.1f} cores busy; on a quiet machine expect more"


def largest_cache_bytes() -> int:
    """Size of the last cache before main memory; 0: the system does not tell."""
    return max(caches(_CPUS).values(), default=0)


def rss_mib() -> float:
    """Memory of this process that is in RAM now."""
    return _kib(_PROC / "self/status", "VmRSS") / 1024


def peak_rss_mib() -> float:
    """The most that `rss_mib` has been since the start, or since `reset_peak_rss`."""
    return _kib(_PROC / "self/status", "VmHWM") / 1024


def reset_peak_rss() -> bool:
    """Let `peak_rss_mib` start again from now; False where the kernel does not allow it."""
    with contextlib.suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5")
        return True
    return False


def cgroup_cores(root: Path) -> float | None:
    """The CPU quota of this container, in cores; None: no limit. `root` is where cgroups are mounted."""
    with contextlib.suppress(OSError, ValueError):  # version 2: "max 100000" or "150000 100000"
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):  # version 1: -1 is no limit
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return quota_us / int((root / "cpu/cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    return None


def cgroup_memory_mib(root: Path) -> int | None:
    """The memory limit of this container; None: no limit. `root` is where cgroups are mounted."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
            limit = int((root / name).read_text())
            return limit >> 20 if limit < _UNLIMITED else None
    return None


def _processor_times() -> tuple[int, int]:
    """Of all cores since the start: all ticks, and those in which nothing was to do (proc_stat(5))."""
    ticks = [int(number) for number in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _text(path: Path) -> str | None:
    """What the one line of a file of the kernel says; None: there is no such file."""
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return None


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    first = (_PROC / "cpuinfo").read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _kib(path: Path, field: str) -> int:
    """The value of a line such as "VmRSS:     1234 kB"."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{path} has no line {field}")


def _system() -> str:
    """Distribution and kernel, without the kernel's build name."""
    kernel = f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"
    with contextlib.suppress(OSError):
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    return kernel


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
