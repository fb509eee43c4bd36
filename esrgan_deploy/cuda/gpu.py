"""Find the GPU by asking the NVIDIA driver, before TensorRT is used.

Without a driver TensorRT raises TypeErrors, and some of its calls crash. The driver's own library returns error codes.
It is called through ctypes, so that no package is needed, and no context is made, so that no GPU memory is taken.

Source of the functions and constants: CUDA Driver API, `cuda.h` of CUDA 13, and NVML, `nvml.h`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass

from esrgan_deploy.errors import MachineError
from esrgan_deploy.system.libraries import driver_names, load

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NO_DEVICE = "no NVIDIA GPU is visible; check CUDA_VISIBLE_DEVICES, and start a container with --gpus all"
_REMEDIES = {
    34: "a stub library of the CUDA toolkit is found first; take its folder out of LD_LIBRARY_PATH",
    100: _NO_DEVICE,
    802: "the GPUs' interconnect is not ready; start the service nvidia-fabricmanager",
    803: "the driver was updated and its old kernel module is still loaded; restart the machine",
    804: "the CUDA compatibility package does not know this GPU; take its folder out of LD_LIBRARY_PATH",
}
"""By CUresult; other errors of `cuInit` are explained best by nvidia-smi."""


@dataclass(frozen=True)
class DeviceFacts:
    """A GPU and its driver."""

    name: str
    """For instance "NVIDIA H200"."""
    compute_capability: tuple[int, int]
    """(9, 0) for sm_90."""
    driver: str
    """The driver's own version, for instance "580.159.03"."""
    cuda: int
    """The newest CUDA that the driver runs, as CUDA counts: 13000 for 13.0."""
    total_memory: int
    """Bytes."""


def find_gpu(device: int = 0) -> DeviceFacts:
    """Ask the driver what GPU number `device` is, as CUDA counts devices.

    Raises:
        MachineError: no driver, a driver that does not work, no GPU, or no GPU of that number.
    """
    names = driver_names("cuda")
    cuda = load(*names)
    if cuda is None:
        raise MachineError(f"no NVIDIA driver ({names[0]}) is installed; install one, or use a machine with a GPU")
    _check(cuda, "cuInit", 0)
    count = _integer(cuda, "cuDeviceGetCount")
    if count == 0:
        raise MachineError(_NO_DEVICE)
    if not 0 <= device < count:
        raise MachineError(f"GPU {device} does not exist; this machine has {count}, counted from 0")
    handle = _integer(cuda, "cuDeviceGet", device)
    name = ctypes.create_string_buffer(256)
    _check(cuda, "cuDeviceGetName", name, len(name), handle)
    memory = ctypes.c_size_t()
    _check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    newest_cuda = _integer(cuda, "cuDriverGetVersion")
    return DeviceFacts(
        name=name.value.decode(errors="replace"),
        compute_capability=(
            _integer(cuda, "cuDeviceGetAttribute", _CAPABILITY_MAJOR, handle),
            _integer(cuda, "cuDeviceGetAttribute", _CAPABILITY_MINOR, handle),
        ),
        driver=_driver_version() or f"for CUDA {cuda_version(newest_cuda)}",
        cuda=newest_cuda,
        total_memory=memory.value,
    )


def cuda_version(number: int) -> str:
    """A CUDA version as people write it: "12.4" for 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"


def required_cuda(module: str) -> int | None:
    """The CUDA major version that the installed wheels of `module`, "tensorrt" or "tensorrt_rtx", were built for.

    It is in the names of NVIDIA's distributions: tensorrt-cu13, tensorrt-rtx-cu12-libs. None: installed otherwise.
    """
    pattern = re.compile(module.replace("_", "[-_]") + r"[-_]cu(\d+)([-_](libs|bindings))?")
    names = (distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions())
    found = [int(match[1]) for match in map(pattern.fullmatch, names) if match]
    return max(found, default=None)


def check_driver(facts: DeviceFacts, cuda_major: int | None, library: str) -> None:
    """Make sure that the driver is new enough for a library that was built for CUDA `cuda_major`; None: unknown.

    Any driver of the same major version will do (CUDA's minor version compatibility).

    Raises:
        MachineError: the driver is older.
    """
    if cuda_major is not None and facts.cuda < cuda_major * 1000:
        raise MachineError(
            f"driver {facts.driver} runs CUDA up to {cuda_version(facts.cuda)}, but {library} is made for CUDA "
            f"{cuda_major}; update the driver, or install {library} for CUDA {facts.cuda // 1000}"
        )


def _integer(cuda: ctypes.CDLL, function: str, *arguments: int) -> int:
    """The value that a function of the driver writes to its first argument, a pointer to an int."""
    value = ctypes.c_int()
    _check(cuda, function, ctypes.byref(value), *arguments)
    return value.value


def _check(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of the driver; MachineError unless it returns CUDA_SUCCESS."""
    call: Callable[..., int] = getattr(cuda, function)
    result = call(*arguments)
    if result:
        remedy = _REMEDIES.get(result, "run nvidia-smi; if that fails as well, restart the machine")
        raise MachineError(f"the NVIDIA driver refuses, {function} returned {result}: {remedy}")


def _driver_version() -> str | None:
    """The driver's own version from NVML, which some Jetsons and small containers do not have."""
    nvml = load(*driver_names("nvidia-ml"))
    if nvml is None or nvml.nvmlInit_v2():
        return None
    try:
        version = ctypes.create_string_buffer(80)  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
        return None if nvml.nvmlSystemGetDriverVersion(version, len(version)) else version.value.decode()
    finally:
        nvml.nvmlShutdown()
