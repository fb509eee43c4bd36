"""What NVIDIA's driver tells of the GPU that sessions compute on, by NVML: name, clocks, energy.

Without nvidia-ml-py, which the extra `bench` brings, all of it is None.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any

from esrgan_deploy.system.libraries import driver_names, load


def gpu_energy_joules() -> float | None:
    """Energy of CUDA's first GPU since its driver was loaded; None: no GPU, or one before Volta, which does not count.

    The counter moves some ten times a second.
    """
    millijoules = _ask("nvmlDeviceGetTotalEnergyConsumption")
    return None if millijoules is None else millijoules / 1e3


def gpu_facts() -> dict[str, Any] | None:
    """Name, clocks (MHz) and power limit (W) of CUDA's first GPU, ready for JSON; None: there is none."""
    if _gpu() is None:
        return None
    from pynvml import NVML_CLOCK_SM

    limit = _ask("nvmlDeviceGetEnforcedPowerLimit")
    return {
        "name": _ask("nvmlDeviceGetName"),
        "clock_mhz": {
            "now": _ask("nvmlDeviceGetClockInfo", NVML_CLOCK_SM),
            "max": _ask("nvmlDeviceGetMaxClockInfo", NVML_CLOCK_SM),
        },
        "power_limit_w": None if limit is None else limit / 1e3,
    }


@cache
def _gpu() -> Any | None:  # noqa: ANN401
    """NVML's handle of CUDA's first GPU, found by PCI address: the two may count GPUs in another order."""
    try:
        import pynvml
    except ImportError:
        return None
    cuda = load(*driver_names("cuda"))
    device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
    if (
        cuda is None
        or cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetPCIBusId(address, len(address), device)
    ):
        return None
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByPciBusId(address.value)
    return None


def _ask(function: str, *arguments: int) -> Any | None:  # noqa: ANN401
    """What a function of NVML tells of the GPU; None: there is none, or this one does not tell."""
    handle = _gpu()
    if handle is None:
        return None
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return getattr(pynvml, function)(handle, *arguments)
    return None
