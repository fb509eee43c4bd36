"""The processor: its instructions, the cores and threads that this process may use, clocks, caches, how busy it is.

ONEDNN_MAX_CPU_ISA keeps OpenVINO from newer instructions, so it counts like an older processor.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

CPU_FEATURES = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "bf16", "i8mm"),
)
"""What decides the speed of convolutions, as Linux calls it: x86 in the first two rows, ARM in the third."""
WATCHED_S = 0.3
BUSY_SHARE = 0.1
_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_MAX_ISA = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f"}
_VNNI = _AVX512 | {"avx_vnni", "avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16"}
_UP_TO = {
    **dict.fromkeys(("SSE41", "AVX"), frozenset[str]()),
    "AVX2": _AVX2,
    **dict.fromkeys(("AVX2_VNNI", "AVX2_VNNI_2"), _AVX2 | {"avx_vnni"}),
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _VNNI,
    "AVX512_CORE_BF16": _BF16,
    **dict.fromkeys(("AVX512_CORE_FP16", "AVX10_1_512"), _BF16 | {"avx512_fp16"}),
}
"""Values of ONEDNN_MAX_CPU_ISA, and which of `CPU_FEATURES` are used then; with others, all of them."""
_INT8_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
_BF16_PRODUCTS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_IN_NUMPY = {
    **{"AVX2": "avx2", "FMA3": "fma", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni"},
    **{"AVX512BF16": "avx512_bf16", "AVX512FP16": "avx512_fp16"},
    **{"ASIMD": "asimd", "ASIMDHP": "asimdhp", "ASIMDDP": "asimddp", "SVE": "sve"},
}
"""NumPy's names of `CPU_FEATURES`, as far as it looks for them."""


def instructions() -> frozenset[str]:
    """Which of `CPU_FEATURES` the processor has.

    Where the kernel does not list them (Windows, macOS), NumPy has asked the processor. It does not know avx_vnni, AMX
    and ARM's bf16 and i8mm, so these count as missing there: INT8 may then be slower, and is never wrong.
    """
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features"))
    return frozenset(_features_by_numpy() if flags is None else flags.split()).intersection(CPU_FEATURES)


def max_isa() -> str | None:
    """The newest instructions that OpenVINO may use, as the user has set it; None: all."""
    return next((os.environ[name] for name in _MAX_ISA if os.environ.get(name)), None)


def features() -> frozenset[str]:
    """Which of `CPU_FEATURES` the processor has and OpenVINO may use."""
    limit = (max_isa() or "").upper()
    return instructions() & _UP_TO.get(limit, frozenset(CPU_FEATURES))


def openvino_runs_here() -> bool:
    """Whether OpenVINO has code for this processor: on x86 its resizing needs AVX2."""
    return platform.machine() not in ("x86_64", "AMD64") or "avx2" in features()


def shortcomings() -> list[str]:
    """What this processor lacks that others have, as the user may want to know who wonders about its speed."""
    found = features()
    lacks = []
    if platform.machine() in ("x86_64", "AMD64"):
        widest = [name for name, needed in (("AVX2", "avx2"), ("AVX-512", "avx512f")) if needed not in found]
        lacks += [f"no {widest[0]}"] if widest else []
    if not found & _INT8_PRODUCTS:
        lacks.append("no int8 dot products (VNNI)")
    if not found & _BF16_PRODUCTS:
        lacks.append("no bf16")
    if usable_cores() < (os.cpu_count() or 1):
        lacks.append(f"{usable_cores():g} of {os.cpu_count()} cores")
    return lacks


def usable_cores() -> float:
    """Cores that this process may use: what its affinity and the CPU quota of its container leave."""
    allowed = len(_allowed_cpus())
    return min(allowed, cgroup_cores() or allowed)


def usable_threads() -> int:
    """Threads that can compute at the same time: every core that affinity and the container's quota leave.

    A quota of 1.5 cores counts as 2: more is given up by leaving half a core idle than by waiting for it.
    """
    return max(1, math.ceil(usable_cores()))


def default_threads(cpus: Path = _CPUS) -> int:
    """As `usable_threads`, but two threads that share the units of one core count once.

    Args:
        cpus: the folder that Linux describes the cores in. Other systems tell how many cores the machine has, not
            which of them are allowed.
    """
    import psutil

    siblings = [_text(cpus / f"cpu{cpu}/topology/thread_siblings_list") for cpu in _allowed_cpus()]
    cores = psutil.cpu_count(logical=False) if None in siblings else len(set(siblings))
    return min(usable_threads(), cores or len(siblings))


def clocks() -> dict[str, float | str | None]:
    """The first core's clock now and at most, in MHz, and the governor that sets it; None: the system does not tell."""
    import psutil

    clock = None
    with contextlib.suppress(OSError, RuntimeError, AttributeError, IndexError):
        clock = psutil.cpu_freq(percpu=True)[0]
    return {
        "now": clock.current or None if clock else None,
        "max": clock.max or None if clock else None,
        "governor": _text(_CPUS / "cpu0/cpufreq/scaling_governor"),
    }


def caches(cpus: Path = _CPUS) -> dict[int, int]:
    """Bytes of the first core's caches for data, by level; empty: the system does not tell, as all but Linux.

    Args:
        cpus: the folder that Linux describes the cores in.
    """
    found = {}
    for folder in (cpus / "cpu0/cache").glob("index*"):
        level, size = _text(folder / "level"), _text(folder / "size")
        if level and size and size.endswith("K") and _text(folder / "type") != "Instruction":
            found[int(level)] = int(size[:-1]) * 1024
    return dict(sorted(found.items()))


def largest_cache_bytes() -> int:
    """Size of the last cache before main memory; 0: the system does not tell."""
    return max(caches().values(), default=0)


def busy_cores(seconds: float) -> float:
    """How many cores of the machine are at work, on average over the next `seconds`, while this process waits."""
    import psutil

    return (os.cpu_count() or 1) * psutil.cpu_percent(interval=seconds) / 100


def disturbance() -> str | None:
    """A line on other programs where they take a share of the cores worth mentioning."""
    busy = busy_cores(WATCHED_S)
    if busy < BUSY_SHARE * usable_cores():
        return None
    return f"other programs keep {busy:.1f} cores busy; on a quiet machine expect more"


def cgroup_cores(root: Path = _CGROUP) -> float | None:
    """The CPU quota of this container, in cores; None: no limit, or not Linux. `root` is where cgroups are mounted."""
    with contextlib.suppress(OSError, ValueError):  # version 2: "max 100000" or "150000 100000"
        quota, period = (root / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):  # version 1: -1 is no limit
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text(encoding="utf-8"))
        return quota_us / period_us if quota_us > 0 else None
    return None


def cpu_name() -> str:
    """The processor as its maker calls it, or at least its architecture."""
    name = _cpuinfo().get("model name", "")
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    elif sys.platform == "win32":
        name = platform.processor()
    return name or platform.machine()


def _allowed_cpus() -> Collection[int]:
    """The logical cores that this process may be scheduled on. macOS has no affinity: all of them."""
    import psutil

    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return affinity() if affinity else range(os.cpu_count() or 1)


def _features_by_numpy() -> list[str]:
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # the second one before NumPy 2
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module).__cpu_features__
            return [name for key, name in _IN_NUMPY.items() if found.get(key)]
    return []


def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the first processor; empty on other systems."""
    fields = {}
    for line in (_text(_CPUINFO) or "").split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def _text(path: Path) -> str | None:
    """What a file of the kernel says; None: there is no such file."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return None
