"""The training checkpoint (state.pt): one atomic file from which a run goes on bit for bit.

Learning rates and samples are not in it, since both are computed from the number of the step. Random states and the
running statistics of batch normalisation differ from process to process, so each process has an entry of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.system.files import replacing
from esrgan_train.recipe import UNDECISIVE
from esrgan_train.recipe.errors import shown
from esrgan_train.recipe.yaml_file import read_yaml
from esrgan_train.run import STATE, Run
from esrgan_train.saved_state import AdamEntries, Comparison, ProcessEntries, TrainingState, parse, read_entries

State = dict[str, Any]
CHECKPOINT_FORMAT = 1
"""Of state.pt. Raised when an older file can no longer be read."""
REMEDY = "take another copy, or begin in a new folder with -o"


def save_state(state: State, path: Path) -> None:
    """Write `state` completely or not at all; an earlier file at `path` stays until the new one is complete.

    Raises:
        OutputError: the disk is full, or the folder is gone.
    """
    with replacing(path) as partial:
        try:
            with partial.open("wb") as file:
                torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
        except RuntimeError as error:  # torch's writer fails again when it closes; a full disk is the first error
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_state(path: Path, recipe_yaml: str, digest: str, world: int) -> TrainingState:
    """Read a state back, with every entry of its kind; nothing in the file is executed.

    Args:
        path: the file.
        recipe_yaml: the effective recipe of the run that is to be resumed; for the error message.
        digest: `Recipe.digest()` of that recipe; must equal the one in the file.
        world: the number of processes; must equal the one in the file.

    Raises:
        ModelError: the file is damaged, or was written in another format; the entry is named.
        OptionError: it belongs to another recipe (the first difference is named), or to another number of processes.
        MachineError: it does not fit into memory.
    """
    content = read_entries(path, REMEDY)
    version = content.get("format")
    if type(version) is int and 0 < version < 1000 and version != CHECKPOINT_FORMAT:
        raise ModelError(f"{path}: has format {version}, this version reads {CHECKPOINT_FORMAT}; begin in a new folder")
    if version != CHECKPOINT_FORMAT:
        raise ModelError(f"{path}: is no training state, which says its format; {REMEDY}")
    state = parse(TrainingState, content, path, REMEDY)
    if state.digest != digest:
        raise OptionError(
            f"{path}: belongs to another recipe: {_first_difference(state.recipe, recipe_yaml, path)}; "
            "set it back, or begin in another folder with -o"
        )
    saved_by = len(state.processes)
    if saved_by != world:
        raise OptionError(f"{path}: was saved by {saved_by} processes, not {world}; go on with --devices {saved_by}")
    return state


def collect(run: Run) -> State:
    """What the next step depends on and what is the same in all processes."""
    model = run.model
    state: State = {
        "digest": run.recipe.digest(),
        "recipe": run.recipe.to_yaml(),
        "parent_sha256": run.parent.sha256 if run.parent else None,
        "step": run.step,
        "best": run.best,
        "unlogged": run.unlogged,
        "generator": run.generator.state_dict(),
        "optimiser": model.generator.optimiser.state_dict(),
        "average": run.average.state_dict(),
        "precision": run.fabric.strategy.precision.state_dict(),
    }
    if model.discriminator is not None:
        state["discriminator"] = model.discriminator.network.state_dict()
        state["discriminator_optimiser"] = model.discriminator.optimiser.state_dict()
    return state


def collect_own(run: Run) -> State:
    """What the next step depends on and what each process has for itself."""
    buffers = {name: buffer.cpu() for name, buffer in run.generator.named_buffers()}
    return {"random": random_state(run.fabric.device), "buffers": buffers}


def restore(run: Run) -> None:
    """Put `run` into the state that was saved in its folder. Nothing of `run` is changed before all of it fits.

    Raises:
        ModelError, OptionError, MachineError: see `load_state`; an entry does not fit the networks, and is named; or
            the file that training started from has changed.
    """
    model, path = run.model, run.folder / STATE
    state = load_state(path, run.recipe.to_yaml(), run.recipe.digest(), run.fabric.world_size)
    if state.parent_sha256 != (run.parent.sha256 if run.parent else None):
        raise OptionError(f"start_from {run.recipe.start_from}: is not what {path} started from; put the old file back")
    own = state.processes[run.fabric.global_rank]
    _check(state, own, run)
    run.step, run.best, run.unlogged = state.step, state.best, dict(state.unlogged)
    run.generator.load_state_dict(state.generator)
    load_adam(model.generator.optimiser, state.optimiser)
    run.average.load_state_dict(state.average)
    run.fabric.strategy.precision.load_state_dict(dict(state.precision))
    if model.discriminator is not None and state.discriminator and state.discriminator_optimiser:
        model.discriminator.network.load_state_dict(state.discriminator)
        load_adam(model.discriminator.optimiser, state.discriminator_optimiser)
    for name, buffer in run.generator.named_buffers():
        buffer.copy_(own.buffers[name])
    set_random_state({name: random for name, random in own.random if random is not None}, run.fabric.device)


def _check(state: TrainingState, own: ProcessEntries, run: Run) -> None:
    """Refuse what does not fit `run`."""
    fit, model = Comparison(run.folder / STATE, REMEDY), run.model
    fit.tensors("generator", state.generator, run.generator.state_dict())
    fit.adam("optimiser", state.optimiser, model.generator.optimiser)
    fit.tensors("average", state.average, run.average.state_dict())
    fit.numbers("precision", state.precision, run.fabric.strategy.precision.state_dict())
    if model.discriminator is not None:
        fit.tensors("discriminator", state.discriminator, model.discriminator.network.state_dict())
        fit.adam("discriminator_optimiser", state.discriminator_optimiser, model.discriminator.optimiser)
    place = f"processes.{run.fabric.global_rank}"
    fit.tensors(f"{place}.buffers", own.buffers, dict(run.generator.named_buffers()))
    fit.random(f"{place}.random", own.random, run.fabric.device)


def load_adam(optimiser: Optimizer, saved: AdamEntries) -> None:
    """The moments of each parameter; the settings are the recipe's."""
    moments = {number: dict(each) for number, each in saved.state.items()}
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the random generators that a step uses. Crops need none: they are made by number."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _first_difference(theirs: str, ours: str, path: Path) -> str:
    """The first key by which two recipes differ, apart from those that may change, with both values."""
    saved, wanted = (_flatten(read_yaml(text, f"{path}: its recipe")) for text in (theirs, ours))
    for key in sorted(saved.keys() | wanted.keys()):
        decisive = not any(key == path or key.startswith(f"{path}.") for path in UNDECISIVE)
        if decisive and saved.get(key) != wanted.get(key):
            return f"{key} was {shown(saved.get(key))} and is {shown(wanted.get(key))}"
    return "this version of the program reads the same recipe differently"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - YAML
    """{"a": {"b": [1, 2]}} -> {"a.b.0": 1, "a.b.1": 2}."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
