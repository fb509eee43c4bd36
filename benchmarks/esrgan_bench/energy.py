"""Energy by the machine's own counters: RAPL for CPUs, NVML for NVIDIA GPUs.

RAPL (Intel SDM volume 3, "Platform Specific Power Management Support"; AMD likewise) is read through the kernel's
powercap files. Both count whole packages: what other programs do at the time is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from esrgan_bench.nvml import gpu_energy_joules
from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.system.machine import ENERGY_COUNTERS


class Meter(NamedTuple):
    """A source of energy, and what it counts."""

    joules: Callable[[], float] | None
    """Energy since some moment in the past; None: not known here."""
    about: str
    """What is counted, or why nothing is, for people."""


def open_meter(backend: str, powercap: Path = ENERGY_COUNTERS) -> Meter:
    """What tells the energy of a session of this backend: of the GPU where it computes on one, else of the CPU."""
    if backend not in GPU_BACKENDS:
        return _rapl(powercap)
    if find_spec("pynvml") is None:
        return Meter(None, "energy unknown: nvidia-ml-py is not installed; pip install 'esrgan-deploy[bench]'")
    if gpu_energy_joules() is None:
        return Meter(None, "energy unknown: the GPU's driver (NVML) does not count it")
    return Meter(lambda: gpu_energy_joules() or 0.0, "energy of the GPU, by NVML")


def _rapl(powercap: Path) -> Meter:
    """CPU packages and their memory; `core` and `uncore` are parts of a package, `psys` holds all of it."""
    folders = [
        folder
        for folder in sorted(powercap.glob("intel-rapl:*"))  # of AMD too
        if _read(folder / "name").startswith(("package", "dram"))
    ]
    if not folders:
        return Meter(None, f"energy unknown: this machine has no RAPL counters ({powercap}), like most virtual ones")
    try:
        counters = [_Counter(folder) for folder in folders]
    except OSError as error:
        return Meter(None, f"energy unknown: {error.filename} cannot be read ({error.strerror}); root may, usually")
    names = sorted({_read(folder / "name").split("-")[0] for folder in folders})
    about = f"energy of the CPU by RAPL ({' and '.join(names)}), with all that other programs do at the time"
    return Meter(lambda: sum(counter.joules() for counter in counters), about)


class _Counter:
    """One RAPL domain: microjoules that begin again at 0 when they reach a limit."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text(encoding="utf-8")) + 1
        self._last = int(self._file.read_text(encoding="utf-8"))
        self._sum = 0

    def joules(self) -> float:
        """Since the counter was made; to be read at least once in each round of the range, which takes minutes."""
        now = int(self._file.read_text(encoding="utf-8"))
        self._sum += (now - self._last) % self._range
        self._last = now
        return self._sum / 1e6


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
