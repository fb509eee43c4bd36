"""The machine that engines are built for: its GPU, driver and TensorRT, and the GPU memory that is free."""

from __future__ import annotations

from dataclasses import dataclass

from esrgan_deploy.cuda.driver import open_driver
from esrgan_deploy.cuda.gpu import DeviceFacts, check_driver, find_gpu, required_cuda
from esrgan_deploy.engine.adapter import TensorRT, load_tensorrt
from esrgan_deploy.errors import BackendMissingError, MachineError


@dataclass(frozen=True)
class Machine:
    """Everything outside the model that a plan depends on.

    A portable plan runs on several kinds of GPU, under any driver: its `gpu` is "any", its compute capability (0, 0)
    and its driver empty.
    """

    gpu: str
    """For instance "NVIDIA H200"."""
    compute_capability: tuple[int, int]
    """(9, 0) for sm_90."""
    driver: str
    """For instance "580.159.03"."""
    library: str
    """For instance "TensorRT 10.13.3.9" or "TensorRT-RTX 1.7.1.116"."""

    @property
    def label(self) -> str:
        """For file names: trt10.13.3.9.sm90, rtx1.7.1.116.any."""
        name, _, version = self.library.rpartition(" ")
        return f"{'rtx' if name == 'TensorRT-RTX' else 'trt'}{version}.{self._architecture}"

    @property
    def _architecture(self) -> str:
        return "sm{}{}".format(*self.compute_capability) if any(self.compute_capability) else "any"

    def __str__(self) -> str:
        """In one line, for people."""
        gpu = f"{self.gpu} ({self._architecture})" if any(self.compute_capability) else "any GPU"
        return ", ".join(filter(None, (gpu, self.driver and f"driver {self.driver}", self.library)))


def this_machine(trt: TensorRT, facts: DeviceFacts | None) -> Machine:
    """The machine that plans are built for here.

    Args:
        trt: the TensorRT that is installed.
        facts: of the GPU, from `find_gpu`; None: unknown, which is enough for portable plans.

    Raises:
        MachineError: the GPU is unknown, and this TensorRT builds for one GPU only.
    """
    name = f"{trt.name} {trt.version}"
    if trt.portable:
        return Machine("any", (0, 0), "", name)
    if facts is None:
        raise MachineError(
            f"{name} builds engines for one GPU, and none is known here; build on the machine that will run the engine"
        )
    return Machine(facts.name, facts.compute_capability, facts.driver, name)


def find_local_machine() -> tuple[TensorRT, DeviceFacts | None]:
    """Load TensorRT and find the GPU; None instead of a GPU where engines are portable and need none to be built.

    Raises:
        BackendMissingError: TensorRT is not installed, or does not load.
        MachineError: no GPU or driver, or a driver that is too old for this TensorRT.
    """
    trt = load_tensorrt()
    if trt.portable:
        return trt, None
    try:
        facts = find_gpu()
    except MachineError as error:
        raise MachineError(f"{error} (an engine has to be built on the machine that will run it)") from error
    check_tensorrt(trt, facts)
    return trt, facts


def check_tensorrt(trt: TensorRT, facts: DeviceFacts) -> None:
    """Make sure that the driver is new enough for this TensorRT.

    Raises:
        MachineError: it is not.
    """
    check_driver(facts, required_cuda(trt.module.__name__), str(trt))


def free_memory(facts: DeviceFacts | None) -> int | None:
    """Free bytes on the GPU; None: no GPU is needed, or cuda-python, which could ask, is not installed."""
    if facts is None:
        return None
    try:
        driver = open_driver()
    except BackendMissingError:
        return None
    try:
        with driver.active():
            return driver.memory()[0]
    finally:
        driver.close()
