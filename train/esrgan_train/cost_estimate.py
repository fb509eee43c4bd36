"""Estimate the time and memory that a recipe takes on this machine, from a few of its steps on noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from lightning_fabric import Fabric

from esrgan_deploy.system.memory import peak_rss_mib
from esrgan_train.data.loader import Batch
from esrgan_train.memory_needs import check_memory_needs
from esrgan_train.recipe import Recipe
from esrgan_train.run import build_model
from esrgan_train.step import train_step

WARM_UP, MEASURED = 2, 5
"""Steps that are taken and not timed, and steps that are timed."""


@dataclass(frozen=True)
class CostEstimate:
    """Time and memory of a run on one device, without `compile`."""

    step_seconds: float
    steps: int
    """Steps of the whole run."""
    memory_bytes: int
    """Peak memory of the GPU if there is one, else of the process."""
    device: str

    def __str__(self) -> str:
        hours = self.step_seconds * self.steps / 3600
        return (
            f"{'time':12}{self.step_seconds:.3g} s a step on {self.device} (median of {MEASURED}, not compiled): "
            f"{hours:.2g} h for {self.steps} steps\n"
            f"{'memory':12}{self.memory_bytes / 2**30:.1f} GiB while training"
        )


def estimate_cost(recipe: Recipe) -> CostEstimate:
    """Take a few steps of `recipe` on random pictures and measure them. Nothing is written.

    Raises:
        EsrganError: what would stop the run before its first step, such as missing VGG weights.
    """
    check_memory_needs(recipe)
    fabric = Fabric(accelerator="auto", devices=1, precision=recipe.precision)
    model, network, _ = build_model(recipe.model_copy(update={"compile": False}), fabric)
    size = recipe.data.patch // network.scale
    lr = torch.randint(256, (recipe.batch, 3, size, size), dtype=torch.uint8)
    hr = torch.randint(256, (recipe.batch, 3, recipe.data.patch, recipe.data.patch), dtype=torch.uint8)
    seconds = []
    for step in range(WARM_UP + MEASURED):
        start = perf_counter()
        train_step(model, itertools.repeat(Batch(lr, hr, hr)), step)
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return CostEstimate(median(seconds[WARM_UP:]), recipe.steps, peak_memory(fabric.device), str(fabric.device))


def peak_memory(device: torch.device) -> int:
    """Largest memory in use since the process began, in bytes: the GPU's for a CUDA device, else the process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(peak_rss_mib() * 2**20)
