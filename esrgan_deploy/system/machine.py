"""Which machine a figure was measured on."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from esrgan_deploy.system import cpu, memory

PACKAGES = (
    *("esrgan-deploy", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "ncnn"),
    *("av", "opencv-python-headless", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13"),
    *("cuda-bindings", "pycuda"),
)
_DECISIVE = ("esrgan-deploy", "onnxruntime", "onnxruntime-gpu", "openvino")
ENERGY_COUNTERS = Path("/sys/class/powercap")
"""Where Linux has the energy counters of CPUs (RAPL); no such folder elsewhere."""


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system and package versions, ready for JSON.

    `cores_usable` is what scheduling affinity and the container's CPU quota leave of `cores`, and `ram_mib` the
    container's limit where that is lower than the machine's. What the system does not tell is None; most virtual
    machines tell no clocks but the one they were started with.
    """
    found = cpu.instructions()
    return {
        "cpu": cpu.cpu_name(),
        "cpu_features": [name for name in cpu.CPU_FEATURES if name in found],
        "cores": os.cpu_count(),
        "cores_usable": cpu.usable_cores(),
        "clock_mhz": cpu.clocks(),
        "cache_kib": {f"L{level}": size // 1024 for level, size in cpu.caches().items()},
        "ram_mib": memory.ram_mib(),
        "cgroup": {"cores": cpu.cgroup_cores(), "memory_mib": memory.cgroup_memory_mib()},
        "os": _system(),
        "python": platform.python_version(),
        "packages": _installed(PACKAGES),
    }


def speed_facts() -> dict[str, Any]:
    """Everything here that may change which way to run a network is the fastest, ready for JSON."""
    return {
        "cpu": cpu.cpu_name(),
        "features": sorted(cpu.features()),
        "max_isa": cpu.max_isa(),
        "threads": cpu.usable_threads(),
        "cores": cpu.default_threads(),
        "quota": cpu.usable_cores(),
        "packages": _installed(_DECISIVE),
    }


def _system() -> str:
    """Distribution and kernel, without the kernel's build name."""
    kernel = f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"
    with contextlib.suppress(OSError):
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    return kernel


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those of `packages`, names of distributions, that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
