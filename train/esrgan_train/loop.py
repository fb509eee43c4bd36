"""A training run, top to bottom: prepare, begin or restore, fit, validate, save."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from esrgan_deploy.errors import EsrganError, MachineError, OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_export.checkpoint import Kind, save_checkpoint
from esrgan_export.interpolate import blend_weights
from esrgan_train.data.loader import batches
from esrgan_train.ema import update_average
from esrgan_train.processes import agree, first_speaks, together
from esrgan_train.recipe import Recipe
from esrgan_train.run import Run, prepare, set_up
from esrgan_train.run_log import Logbook, Timed
from esrgan_train.schedule import learning_rate
from esrgan_train.state import State, load_state, save_state
from esrgan_train.step import Terms, train_step
from esrgan_train.validate import bicubic_baseline, means, save_samples, validate

STATE, RECIPE, LAST, BEST = "state.pt", "recipe.yaml", "last.safetensors", "best.safetensors"
"""Names of the files in the folder of a run, beside `run_log.LOG`."""


class DivergedError(EsrganError):
    """A loss or a weight became NaN or infinite. What was saved before is as it was."""


def train(recipe: Recipe, folder: Path, *, resume: bool = False, devices: int = 1, nodes: int = 1) -> None:
    """Carry a run out, or on.

    The folder gets the effective recipe, the training state, the weights (`last.safetensors`, and `best.safetensors`
    where the recipe says what is best), a log as JSON lines, TensorBoard's files and sample pictures. Ctrl-C and
    SIGTERM end it after the current step, with the state saved.

    Args:
        recipe: see `load_recipe`.
        folder: is made.
        resume: go on after the state in `folder`, if there is one.
        devices: processes on this machine. The others repeat this program's command line.
        nodes: machines.

    Raises:
        OptionError: the recipe does not fit its data, its parent or the state; or there is a state and no `resume`.
        ModelError, MediaError: a file that is missing or damaged.
        OutputError: the disk is full; the last state stays.
        DivergedError: a loss or a weight is not finite; the last state stays.
        MachineError: not enough memory, or nothing to compile with.
        KeyboardInterrupt: it was interrupted; the state was saved.
        SystemExit: in the other processes, when the first one raises any of these.
    """
    if (folder / STATE).exists() and not resume:
        raise OptionError(f"{folder}: holds a run already; go on with it by --resume, or name another folder with -o")
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
        resumed = resume and (folder / STATE).exists()
        if resumed:
            restore(run)
        write_recipe(run)
        log = Logbook(run)
    with log, first_speaks(fabric):
        if not resumed:
            log_baseline(run, log)
        with stopping() as stop:
            fit(run, log, stop)
        if run.step < recipe.steps:
            raise KeyboardInterrupt


def write_recipe(run: Run) -> None:
    """Make the folder and write the effective recipe into it."""
    if not run.fabric.is_global_zero:
        return
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{run.folder}: cannot be made: {error.strerror}; name another with -o") from error
    for abandoned in run.folder.glob(".*.part*"):  # what a kill left of a save
        abandoned.unlink()
    with replacing(run.folder / RECIPE) as partial:
        partial.write_text(run.recipe.to_yaml(), encoding="utf-8")


def log_baseline(run: Run, log: Logbook) -> None:
    """Measure bicubic, which the network has to beat. Pictures that are too small for a metric are found here."""
    metrics = run.recipe.validation.metrics
    with together(run.fabric):
        if run.validation and run.fabric.is_global_zero:
            log.validation(bicubic_baseline(run.validation, metrics, run.generator.scale), "bicubic")


def fit(run: Run, log: Logbook, stop: threading.Event) -> None:
    """Step after step, until the recipe's number of steps or until `stop`."""
    recipe, fabric = run.recipe, run.fabric
    stream = batches(
        run.crops,
        run.step * recipe.accumulate,
        recipe.batch,
        fabric.world_size,
        fabric.global_rank,
        max(1, recipe.data.workers),
    )
    timed = Timed(stream)
    stopped = stop.is_set()
    with contextlib.closing(stream):
        while run.step < recipe.steps and not stopped:
            set_rates(run)
            terms, stopped = agree(fabric, take_step(run, timed), stop.is_set())
            guard(run, terms)
            if run.average is not run.generator:
                update_average(run.average, run.generator, recipe.ema or 0.0, run.step)
            run.step += 1
            log.step(terms)
            keep(run, log, timed, stopped)


def keep(run: Run, log: Logbook, timed: Timed, stopped: bool) -> None:
    """Log, validate and save, whatever is due after this step."""
    recipe, step = run.recipe, run.step
    last = step == recipe.steps
    logs = step % recipe.log_every == 0
    checks = bool(run.validation) and (last or step % recipe.validation.every == 0)
    saves = last or stopped or step % recipe.save_every == 0
    if not (logs or checks or saves):
        return
    with together(run.fabric):
        if logs:
            log.losses(timed)
        if checks or saves:
            guard_weights(run)
        if checks and run.fabric.is_global_zero:
            check(run, log)
    if saves:
        save(run)


def take_step(run: Run, timed: Timed) -> Terms:
    """One training step.

    Raises:
        MachineError: not enough memory, or no working compiler for `compile`.
    """
    try:
        return train_step(run.game, timed, run.step)
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
    recipe, game = run.recipe, run.game
    rates = [(game.generator, recipe.optimiser.lr)]
    if game.discriminator is not None and recipe.discriminator is not None:
        rates.append((game.discriminator, recipe.discriminator.optimiser.lr))
    for player, base in rates:
        for group in player.optimiser.param_groups:
            group["lr"] = learning_rate(recipe.schedule, base, run.step, recipe.steps)


def guard(run: Run, terms: Terms) -> None:
    """Stop before a bad step can reach the averaged weights or a file.

    Raises:
        DivergedError: says in which step, and which loss.
    """
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if run.recipe.precision == "16-mixed":
        bad = [name for name in bad if name != "gradient-norm"]  # the scaler skips such steps, and tries a lower scale
    if bad:
        raise DivergedError(f"step {run.step + 1}: {', '.join(bad)} is {terms[bad[0]]}; {_remedy(run)}")


def guard_weights(run: Run) -> None:
    """Stop before bad weights are validated or saved: a finite loss may have had a gradient that was not.

    Raises:
        DivergedError: says after which step, and which weights.
    """
    networks: dict[str, nn.Module] = {"generator": run.generator, "average": run.average}
    if run.game.discriminator is not None:
        networks["discriminator"] = run.game.discriminator.network
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                raise DivergedError(f"step {run.step}: the {name}'s {key} is not finite; {_remedy(run)}")


def _remedy(run: Run) -> str:
    remedy = "a lower optimiser.lr or a clip_gradient"
    if (run.folder / LAST).exists():
        return f"begin another run from what was saved before, start_from={run.folder / LAST}, with {remedy}"
    return f"nothing was saved before; begin again with {remedy}"


def check(run: Run, log: Logbook) -> None:
    """Validate the averaged weights, and keep them where they are the best so far."""
    section = run.recipe.validation
    scores, outputs = validate(run.average, run.validation, section.metrics, section.tile, section.samples)
    log.validation(scores, "validation")
    save_samples(outputs, run.folder / "samples" / f"{run.step:07d}")
    for alpha in section.alphas:
        assert run.parent is not None, "the recipe refuses alphas without a parent"
        blend = blend_weights(run.parent.network, run.average, alpha)
        log.validation(validate(blend, run.validation, section.metrics, section.tile)[0], f"alpha-{alpha:g}")
    keep_best(run, means(scores))


def keep_best(run: Run, scores: Mapping[str, float]) -> None:
    """Write `best.safetensors` if the recipe's metric says so. NIQE falls as pictures get better, PSNR rises."""
    metric = run.recipe.validation.best
    if metric == "last":
        return
    value = scores[metric]
    if run.best is None or (value > run.best if metric == "psnr" else value < run.best):
        run.best = value
        save_weights(run, run.folder / BEST)


def save(run: Run) -> None:
    """Write the averaged weights and the training state, each completely or not at all.

    The state comes last: once the one of the last step is there, nothing is left to be done.
    """
    buffers = {name: buffer.cpu() for name, buffer in run.generator.named_buffers()}
    own = {"random": random_state(run.fabric.device), "buffers": buffers}
    processes: list[Any] = [own]
    if run.fabric.world_size > 1:
        processes = [None] * run.fabric.world_size
        torch.distributed.all_gather_object(processes, own)
    with together(run.fabric):
        if run.fabric.is_global_zero:
            save_weights(run, run.folder / LAST)
            save_state(collect(run) | {"processes": processes}, run.folder / STATE)


def save_weights(run: Run, path: Path) -> None:
    """The averaged generator, with its parent's hash, for `esrgan-export`."""
    kind: Kind = "params" if run.recipe.ema is None else "params_ema"
    save_checkpoint(run.average, path, run.parent.sha256 if run.parent else None, kind)


def collect(run: Run) -> State:
    """Everything that step `run.step` depends on, apart from what is each process's own."""
    game = run.game
    state: State = {
        "digest": run.recipe.digest(),
        "recipe": run.recipe.to_yaml(),
        "parent_sha256": run.parent.sha256 if run.parent else None,
        "step": run.step,
        "best": run.best,
        "unlogged": run.unlogged,
        "generator": run.generator.state_dict(),
        "optimiser": game.generator.optimiser.state_dict(),
        "average": run.average.state_dict(),
        "precision": run.fabric.strategy.precision.state_dict(),
    }
    if game.discriminator is not None:
        state["discriminator"] = game.discriminator.network.state_dict()
        state["discriminator_optimiser"] = game.discriminator.optimiser.state_dict()
    return state


def restore(run: Run) -> None:
    """Put `run` where the state in its folder was saved.

    Raises:
        ModelError, OptionError: see `load_state`; or the file that training started from has changed.
    """
    game, path = run.game, run.folder / STATE
    state = load_state(path, run.recipe.to_yaml(), run.recipe.digest(), run.fabric.world_size)
    if state["parent_sha256"] != (run.parent.sha256 if run.parent else None):
        raise OptionError(f"start_from {run.recipe.start_from}: is not what {path} started from; put the old file back")
    run.step, run.best, run.unlogged = state["step"], state["best"], state.get("unlogged", {})
    run.generator.load_state_dict(state["generator"])
    game.generator.optimiser.load_state_dict(state["optimiser"])
    run.average.load_state_dict(state["average"])
    run.fabric.strategy.precision.load_state_dict(state["precision"])
    if game.discriminator is not None:
        game.discriminator.network.load_state_dict(state["discriminator"])
        game.discriminator.optimiser.load_state_dict(state["discriminator_optimiser"])
    own = state["processes"][run.fabric.global_rank]
    for name, buffer in run.generator.named_buffers():
        buffer.copy_(own["buffers"][name])
    set_random_state(own["random"], run.fabric.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that a step draws from. Samples do not: they are numbered."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Within it, Ctrl-C and SIGTERM set the event that is yielded; a second one interrupts at once."""
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
