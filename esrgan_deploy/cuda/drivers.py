"""Choose a driver layer: cuda-python where it is installed, else PyCUDA."""

from __future__ import annotations

from importlib import import_module

from esrgan_deploy.cuda import Driver, DriverName
from esrgan_deploy.cuda.gpu import find_gpu
from esrgan_deploy.errors import BackendMissingError, MachineError

_LAYERS = {
    "cuda-python": ("esrgan_deploy.cuda.bindings", "BindingsDriver", "cuda"),
    "pycuda": ("esrgan_deploy.cuda.pycuda_driver", "PycudaDriver", "pycuda"),
}
"""Module, class and foreign package of each layer; the better one first: PyCUDA has no graphs."""


def open_driver(name: DriverName = "auto", device: int = 0) -> Driver:
    """Open GPU number `device` through the driver layer `name`; "auto" takes the first that is installed.

    Raises:
        MachineError: no driver, a driver that does not work, no such GPU, or no memory for the primary context.
        BackendMissingError: the package is not installed or does not load.
    """
    facts = find_gpu(device)
    problems = []
    for layer in _LAYERS if name == "auto" else (name,):
        module, kind, package = _LAYERS[layer]
        try:
            driver: Driver = getattr(import_module(module), kind)(facts, device)
        except ImportError as error:
            if error.name and error.name.split(".")[0] == "esrgan_deploy":
                raise
            missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
            problems.append(f"{layer} " + ("is not installed" if missing else f"does not load ({error})"))
        else:
            return driver
    raise BackendMissingError(f"{' and '.join(problems)}; install it with: pip install 'esrgan-deploy[tensorrt]'")


def out_of_memory(nbytes: int, free: int, total: int) -> MachineError:
    """The error of an allocation of `nbytes` that failed with `free` of `total` bytes left on the GPU."""
    wanted, left, all_of_it = (f"{size / 2**20:.0f} MiB" for size in (nbytes, free, total))
    return MachineError(
        f"out of GPU memory: {wanted} wanted, {left} of {all_of_it} free; use smaller tiles or batches, "
        "or end what else runs on the GPU"
    )


def no_pinned_memory(nbytes: int, reason: str) -> MachineError:
    """The error of a page-locked allocation of `nbytes` that failed."""
    return MachineError(
        f"{nbytes / 2**20:.0f} MiB of host memory cannot be page-locked ({reason}); use smaller tiles or batches"
    )
