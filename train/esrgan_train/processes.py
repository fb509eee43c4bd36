"""What the processes of one run have to agree on: gradients, losses, when to stop, and errors.

A collective call waits for every process. One that leaves alone would leave the others hanging, so that all of them
leave at the same place, and the first one says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from esrgan_deploy.errors import EsrganError


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over all processes, in one transfer.

    Done by hand and once a step, since DistributedDataParallel expects one forward pass per backward pass, and a GAN
    runs its discriminator several times in between.
    """
    if fabric.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    reduced = fabric.all_reduce(flat, reduce_op="mean")
    assert isinstance(reduced, Tensor), "it is what went in"
    for gradient, mean in zip(gradients, torch.split(reduced, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agree(fabric: Fabric, values: Mapping[str, float], stop: bool) -> tuple[dict[str, float], bool]:
    """Means of `values` over all processes, NaN where one is NaN, and whether any process wants to stop.

    A signal reaches one process first, or only one; if that one left after its step, the others would wait for it.
    """
    if fabric.world_size == 1:
        return dict(values), stop
    own = torch.tensor([float(stop), *values.values()], dtype=torch.float64, device=fabric.device)
    mean = fabric.all_reduce(own, reduce_op="mean")
    assert isinstance(mean, Tensor), "it is what went in"
    asked, *means = mean.tolist()
    return dict(zip(values, means, strict=True)), asked > 0


@contextlib.contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Wait for all processes at the end of the block; an error in one of them ends all of them.

    The block must hold no collective call. The first process raises the error; the others exit without a word, and with
    code 0, since the launcher would kill the first one before it has spoken.
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
        with first_speaks(fabric):
            raise first


@contextlib.contextmanager
def first_speaks(fabric: Fabric) -> Iterator[None]:
    """Around what ends all processes alike: the error goes on in the first one, the others exit with code 0."""
    try:
        yield
    except (EsrganError, KeyboardInterrupt):
        if fabric.global_rank:
            raise SystemExit(0) from None
        raise
