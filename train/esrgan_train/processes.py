"""What the processes of one run have to agree on: gradients, losses, when to stop, and errors.

A collective call waits for every process, so a process that ended alone would leave the others waiting for ever. All
processes therefore end at the same place, and only the first one reports the error.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from esrgan_deploy.errors import EsrganError


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their mean over all processes, in one transfer.

    DistributedDataParallel would do this in every backward pass, but it expects one backward pass for each forward
    pass, and two losses go back through a GAN's discriminator. So it is done here, once per step.
    """
    if fabric.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    reduced = fabric.all_reduce(flat, reduce_op="mean")
    assert isinstance(reduced, Tensor), "all_reduce returns the type that it is given"
    for gradient, mean in zip(gradients, torch.split(reduced, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agree(fabric: Fabric, values: Mapping[str, float], stop: bool) -> tuple[dict[str, float], bool]:
    """Means of `values` over all processes, NaN where one is NaN; and whether any of them was asked to stop.

    A signal may reach one process earlier than the others, or only one. If that one ended after its step, the others
    would wait for it.
    """
    if fabric.world_size == 1:
        return dict(values), stop
    own = torch.tensor([float(stop), *values.values()], dtype=torch.float64, device=fabric.device)
    mean = fabric.all_reduce(own, reduce_op="mean")
    assert isinstance(mean, Tensor), "all_reduce returns the type that it is given"
    asked, *means = mean.tolist()
    return dict(zip(values, means, strict=True)), asked > 0


@contextlib.contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Wait for all processes at the end of the block; an error in one of them ends all of them.

    The block must not contain a collective call. The first process raises the error. The others exit silently with
    code 0: with any other code the launcher would kill the first process before it has printed the error.
    """
    own: EsrganError | None = None
    try:
        yield
    except EsrganError as error:
        if fabric.world_size == 1:
            raise
        own = error
    if fabric.world_size == 1:
        return
    errors: list[EsrganError | None] = [None] * fabric.world_size
    torch.distributed.all_gather_object(errors, own)
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        with only_first_raises(fabric):
            raise first


@contextlib.contextmanager
def only_first_raises(fabric: Fabric) -> Iterator[None]:
    """For a block whose errors end all processes: the first one raises, the others exit silently with code 0."""
    try:
        yield
    except (EsrganError, KeyboardInterrupt):
        if fabric.global_rank:
            raise SystemExit(0) from None
        raise


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Within the block, Ctrl-C and SIGTERM set the event that is yielded; a second signal interrupts at once."""
    stop = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
