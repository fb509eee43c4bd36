"""A training run from top to bottom: prepare, begin or restore, fit, validate, save."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import MachineError
from esrgan_export.checkpoint import Kind, save_checkpoint
from esrgan_export.interpolate import blend_weights
from esrgan_train.data.loader import batches
from esrgan_train.divergence import check_losses, check_weights
from esrgan_train.ema import update_average
from esrgan_train.processes import agree, only_first_raises, stop_on_signals, together
from esrgan_train.recipe import Recipe
from esrgan_train.run import BEST, LAST, STATE, Run, prepare, set_up
from esrgan_train.run_folder import SAMPLES, begin_folder, check_folder, is_there
from esrgan_train.run_log import RunLog, TimedBatches
from esrgan_train.schedule import learning_rate
from esrgan_train.state import collect, collect_own, restore, save_state
from esrgan_train.step import Terms, train_step
from esrgan_train.validate import bicubic_baseline, means, save_samples, validate


def train(recipe: Recipe, folder: StrPath, *, resume: bool = False, devices: int = 1, nodes: int = 1) -> None:
    """Carry out the run of a recipe, or resume it.

    The folder gets the effective recipe, the training state, the weights (`last.safetensors`, and `best.safetensors`
    where the recipe says what is best), a log as JSON lines, TensorBoard's files and sample pictures. Ctrl-C and
    SIGTERM end it after the current step, with the state saved.

    Args:
        recipe: see `load_recipe`.
        folder: is made.
        resume: go on after the state in `folder`, if there is one.
        devices: number of processes on this machine. The first one starts the others with the same command line.
        nodes: number of machines.

    Raises:
        OptionError: the recipe does not fit its data, its parent or the state; or there is a state and no `resume`;
            or the folder holds what no run made and this one would overwrite.
        ModelError, MediaError: a file that is missing or damaged.
        OutputError: the disk is full; the state that was saved last stays.
        DivergedError: a loss or a weight is not finite; the state that was saved last stays.
        MachineError: not enough memory, fewer GPUs than `devices`, or no compiler for `compile`.
        KeyboardInterrupt: it was interrupted; the state was saved.
        SystemExit: in the other processes, when the first one raises any of these.
    """
    folder = as_path(folder)
    check_folder(folder, resume)
    _check_devices(devices)
    fabric = Fabric(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=recipe.precision,
    )
    if fabric.local_rank == 0:
        prepare(recipe)
    fabric.launch()
    with together(fabric):
        run = set_up(recipe, folder, fabric)
        resumed = resume and is_there(folder / STATE)
        if resumed:
            restore(run)
        if fabric.is_global_zero:
            begin_folder(folder, recipe.to_yaml())
        log = RunLog(run)
    with log, only_first_raises(fabric):
        if not resumed:
            log_baseline(run, log)
        with stop_on_signals() as stop:
            fit(run, log, stop)
        if run.step < recipe.steps:
            raise KeyboardInterrupt


def _check_devices(devices: int) -> None:
    """Refuse to start more processes than this machine can hold."""
    most = torch.cuda.device_count() if torch.cuda.is_available() else max(8, 4 * (os.cpu_count() or 1))
    if devices > most:
        what = "GPUs" if torch.cuda.is_available() else "processes at a time"
        raise MachineError(f"--devices {devices}: this machine has room for {most} {what}; ask for no more")


def log_baseline(run: Run, log: RunLog) -> None:
    """Log the scores of bicubic, which the network has to beat.

    A picture that is too small for a metric is found here, before the first step.
    """
    metrics = run.recipe.validation.metrics
    with together(run.fabric):
        if run.validation and run.fabric.is_global_zero:
            log.validation(bicubic_baseline(run.validation, metrics, run.generator.scale), "bicubic")


def fit(run: Run, log: RunLog, stop: threading.Event) -> None:
    """Take steps until the recipe's number of steps is reached or `stop` is set."""
    recipe, fabric = run.recipe, run.fabric
    stream = batches(
        run.crops,
        run.step * recipe.accumulate,
        recipe.batch,
        fabric.world_size,
        fabric.global_rank,
        max(1, recipe.data.workers),
    )
    timed = TimedBatches(stream)
    stopped = stop.is_set()
    with contextlib.closing(stream):
        while run.step < recipe.steps and not stopped:
            set_rates(run)
            terms, stopped = agree(fabric, take_step(run, timed), stop.is_set())
            check_losses(run, terms)
            if run.average is not run.generator:
                update_average(run.average, run.generator, recipe.ema or 0.0, run.step)
            run.step += 1
            log.step(terms)
            after_step(run, log, timed, stopped)


def after_step(run: Run, log: RunLog, timed: TimedBatches, stopped: bool) -> None:
    """Log, validate and save, where this step is one for it."""
    recipe, step = run.recipe, run.step
    last = step == recipe.steps
    log_due = step % recipe.log_every == 0
    validation_due = bool(run.validation) and (last or step % recipe.validation.every == 0)
    save_due = last or stopped or step % recipe.save_every == 0
    if not (log_due or validation_due or save_due):
        return
    with together(run.fabric):
        if log_due:
            log.losses(timed)
        if validation_due or save_due:
            check_weights(run)
        if validation_due and run.fabric.is_global_zero:
            validate_average(run, log)
    if save_due:
        save(run)


def take_step(run: Run, timed: TimedBatches) -> Terms:
    """Take one training step.

    Raises:
        MachineError: not enough memory, or no working compiler for `compile`.
    """
    try:
        return train_step(run.model, timed, run.step)
    except RuntimeError as error:
        cause = " ".join(str(error).split("\n\n")[0].split())
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in cause:
            raise MachineError(
                f"{run.fabric.device}: not enough memory for batch {run.recipe.batch} of {run.recipe.data.patch}x"
                f"{run.recipe.data.patch} pixels; halve batch and double accumulate, or take a smaller data.patch"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise MachineError(f"the networks cannot be compiled here ({cause}); set compile=false") from error
        raise


def set_rates(run: Run) -> None:
    """Set the learning rates of this step."""
    recipe, model = run.recipe, run.model
    rates = [(model.generator, recipe.optimiser.lr)]
    if model.discriminator is not None and recipe.discriminator is not None:
        rates.append((model.discriminator, recipe.discriminator.optimiser.lr))
    for network, base in rates:
        for group in network.optimiser.param_groups:
            group["lr"] = learning_rate(recipe.schedule, base, run.step, recipe.steps)


def validate_average(run: Run, log: RunLog) -> None:
    """Validate the averaged weights, and save them if they are the best so far."""
    section = run.recipe.validation
    scores, outputs = validate(run.average, run.validation, section.metrics, section.tile, section.samples)
    log.validation(scores, "validation")
    save_samples(outputs, run.folder / SAMPLES / f"{run.step:07d}")
    for alpha in section.alphas:
        assert run.parent is not None, "a recipe with alphas has start_from"
        blend = blend_weights(run.parent.network, run.average, alpha)
        log.validation(validate(blend, run.validation, section.metrics, section.tile)[0], f"alpha-{alpha:g}")
    keep_best(run, means(scores))


def keep_best(run: Run, scores: Mapping[str, float]) -> None:
    """Write `best.safetensors` if the scores are the best so far. For PSNR higher is better, for NIQE lower."""
    metric = run.recipe.validation.best
    if metric == "last":
        return
    value = scores[metric]
    if run.best is None or (value > run.best if metric == "psnr" else value < run.best):
        run.best = value
        save_weights(run, run.folder / BEST)


def save(run: Run) -> None:
    """Write the averaged weights and the training state, each completely or not at all.

    The state is written last, so that a run whose state says that it is finished has all its files.
    """
    own = collect_own(run)
    processes: list[Any] = [own]
    if run.fabric.world_size > 1:
        processes = [None] * run.fabric.world_size
        torch.distributed.all_gather_object(processes, own)
    with together(run.fabric):
        if run.fabric.is_global_zero:
            save_weights(run, run.folder / LAST)
            save_state(collect(run) | {"processes": processes}, run.folder / STATE)


def save_weights(run: Run, path: Path) -> None:
    """Write the averaged generator, with the hash of its parent, as `esrgan-export` reads it."""
    kind: Kind = "params" if run.recipe.ema is None else "params_ema"
    save_checkpoint(run.average, path, run.parent.sha256 if run.parent else None, kind)
