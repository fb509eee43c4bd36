"""What decides which choice is the fastest here: the processor, what may be used of it, and the packages.

ONEDNN_MAX_CPU_ISA keeps OpenVINO from newer instructions, so it counts like an older processor.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from esrgan_deploy.system.machine import CPU_FEATURES, usable_cores

_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")
_MAX_ISA = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_PACKAGES = ("esrgan-deploy", "onnxruntime", "onnxruntime-gpu", "openvino")
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


def features() -> frozenset[str]:
    """Which of `CPU_FEATURES` the processor has and OpenVINO may use."""
    present: set[str] = set()
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                present.update(line.partition(":")[2].split())
                break
    found = frozenset(present.intersection(CPU_FEATURES))
    limit = next((os.environ[name] for name in _MAX_ISA if os.environ.get(name)), "").upper()
    return found & _UP_TO[limit] if limit in _UP_TO else found


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


def usable_threads() -> int:
    """Threads that can compute at the same time: every core that affinity and the container's quota leave.

    A quota of 1.5 cores counts as 2: more is given up by leaving half a core idle than by waiting for it.
    """
    return max(1, math.ceil(usable_cores()))


def default_threads(cpus: Path = _CPUS) -> int:
    """As `usable_threads`, but two threads that share the units of one core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = cpus / f"cpu{cpu}/topology/thread_siblings_list"
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return min(usable_threads(), len(cores))


def facts() -> dict[str, Any]:
    """Everything here that may change the choice, ready for JSON."""
    names: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().split("\n\n", 1)[0].splitlines():
            key, _, value = line.partition(":")
            names[key.strip()] = value.strip()
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": names.get("model name", platform.machine()),
        "features": sorted(features()),
        "max_isa": next((os.environ[name] for name in _MAX_ISA if os.environ.get(name)), None),
        "threads": usable_threads(),
        "cores": default_threads(),
        "quota": usable_cores(),
        "packages": versions,
    }
