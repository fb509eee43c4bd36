"""What engines can be built for on this machine: its TensorRT, its GPU, and the memory that is free there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrgan_deploy.errors import BackendMissingError, MachineError

if TYPE_CHECKING:
    from esrgan_deploy.cuda.gpu import DeviceFacts
    from esrgan_deploy.engine.adapter import TensorRT


def find_local_machine() -> tuple[TensorRT, DeviceFacts | None]:
    """The installed TensorRT, and the GPU unless engines are portable. The driver is asked before TensorRT is.

    Raises:
        BackendMissingError: TensorRT is not installed, or does not load.
        MachineError: no GPU or driver, or a driver that is too old for this TensorRT.
    """
    from esrgan_deploy.cuda.gpu import check_driver, find_gpu, required_cuda
    from esrgan_deploy.engine.adapter import load_tensorrt

    trt = load_tensorrt()
    if trt.portable:
        return trt, None
    try:
        facts = find_gpu()
    except MachineError as error:
        raise MachineError(f"{error} (an engine has to be built on the machine that will run it)") from error
    check_driver(facts, required_cuda(trt.module.__name__), str(trt))
    return trt, facts


def free_memory(facts: DeviceFacts | None) -> int | None:
    """Free bytes on the GPU; None: no GPU is needed, or nothing is installed that could ask."""
    if facts is None:
        return None
    from esrgan_deploy.cuda.driver import open_driver

    try:
        driver = open_driver()
    except BackendMissingError:
        return None
    try:
        with driver.active():
            return driver.memory()[0]
    finally:
        driver.close()
