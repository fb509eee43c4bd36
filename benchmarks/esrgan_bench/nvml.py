"""What NVIDIA's driver tells of the GPU that sessions compute on: name, clocks, energy.

Source of the functions and constants: NVML, `nvml.h`, and CUDA Driver API, `cuda.h`. Called through ctypes like in
`esrgan_deploy.cuda.gpu`, so that nothing has to be installed for it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_SM_CLOCK = 1  # NVML_CLOCK_SM


def gpu_energy_joules() -> float | None:
    """Energy of CUDA's first GPU since its driver was loaded; None: no GPU, or one before Volta, which does not count.

    The counter moves some ten times a second.
    """
    millijoules = _ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
    return None if millijoules is None else millijoules / 1e3


def gpu_facts() -> dict[str, Any] | None:
    """Name, clocks (MHz) and power limit (W) of CUDA's first GPU, ready for JSON; None: there is none."""
    if _gpu() is None:
        return None
    limit = _ask("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint())
    return {
        "name": _name(),
        "clock_mhz": {
            "now": _ask("nvmlDeviceGetClockInfo", ctypes.c_uint(), _SM_CLOCK),
            "max": _ask("nvmlDeviceGetMaxClockInfo", ctypes.c_uint(), _SM_CLOCK),
        },
        "power_limit_w": None if limit is None else limit / 1e3,
    }


@cache
def _gpu() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """NVML and its handle of CUDA's first GPU, found by PCI address: the two may count GPUs in another order."""
    try:
        nvml, cuda = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, address, handle = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p()
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetPCIBusId(address, len(address), device)
        or nvml.nvmlInit_v2()
        or nvml.nvmlDeviceGetHandleByPciBusId_v2(address, ctypes.byref(handle))
    )
    return None if failed else (nvml, handle)


def _ask(function: str, value: ctypes.c_uint | ctypes.c_ulonglong, *arguments: int) -> int | None:
    """The number that a function of NVML gives through its last argument; None: this GPU does not tell."""
    found = _gpu()
    if found is None:
        return None
    nvml, handle = found
    return None if getattr(nvml, function)(handle, *arguments, ctypes.byref(value)) else value.value


def _name() -> str | None:
    found = _gpu()
    name = ctypes.create_string_buffer(96)  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
    if found is None or found[0].nvmlDeviceGetName(found[1], name, len(name)):
        return None
    return name.value.decode(errors="replace")
