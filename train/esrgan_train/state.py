"""The training checkpoint (state.pt): one atomic file from which a run goes on bit for bit.

Learning rates and samples are not in it, since both are computed from the number of the step. Random states and the
running statistics of batch normalisation differ from process to process, so each process has an entry of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.system.files import replacing
from esrgan_train.recipe import UNDECISIVE
from esrgan_train.run import STATE, Run

State = dict[str, Any]
CHECKPOINT_FORMAT = 1
"""Of state.pt. Raised when an older file can no longer be read."""


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


def load_state(path: Path, recipe_yaml: str, digest: str, world: int) -> State:
    """Read a state back; nothing in the file is executed.

    Args:
        path: the file.
        recipe_yaml: the effective recipe of the run that is to be resumed; for the error message.
        digest: `Recipe.digest()` of that recipe; must equal the one in the file.
        world: the number of processes; must equal the one in the file.

    Raises:
        ModelError: the file is damaged, or was written in another format.
        OptionError: it belongs to another recipe (the first difference is named), or to another number of processes.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
        saved_by = len(state["processes"])
    except Exception as error:  # damaged streams make it raise nearly anything
        raise ModelError(
            f"{path}: is no complete training state; take another copy or begin in a new folder"
        ) from error
    if version != CHECKPOINT_FORMAT:
        raise ModelError(f"{path}: has format {version}, this version reads {CHECKPOINT_FORMAT}; begin in a new folder")
    if state["digest"] != digest:
        raise OptionError(
            f"{path}: belongs to another recipe: {_first_difference(state['recipe'], recipe_yaml)}; "
            "set it back, or begin in another folder with -o"
        )
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
    """Put `run` into the state that was saved in its folder.

    Raises:
        ModelError, OptionError: see `load_state`; or the file that training started from has changed.
    """
    model, path = run.model, run.folder / STATE
    state = load_state(path, run.recipe.to_yaml(), run.recipe.digest(), run.fabric.world_size)
    if state["parent_sha256"] != (run.parent.sha256 if run.parent else None):
        raise OptionError(f"start_from {run.recipe.start_from}: is not what {path} started from; put the old file back")
    run.step, run.best, run.unlogged = state["step"], state["best"], state.get("unlogged", {})
    run.generator.load_state_dict(state["generator"])
    model.generator.optimiser.load_state_dict(state["optimiser"])
    run.average.load_state_dict(state["average"])
    run.fabric.strategy.precision.load_state_dict(state["precision"])
    if model.discriminator is not None:
        model.discriminator.network.load_state_dict(state["discriminator"])
        model.discriminator.optimiser.load_state_dict(state["discriminator_optimiser"])
    own = state["processes"][run.fabric.global_rank]
    for name, buffer in run.generator.named_buffers():
        buffer.copy_(own["buffers"][name])
    set_random_state(own["random"], run.fabric.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the random generators that a step uses. Crops need none: they are made by number."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _first_difference(theirs: str, ours: str) -> str:
    """The first key by which two recipes differ, apart from those that may change, with both values."""
    saved, wanted = (_flatten(yaml.safe_load(text)) for text in (theirs, ours))
    for key in sorted(saved.keys() | wanted.keys()):
        decisive = not any(key == path or key.startswith(f"{path}.") for path in UNDECISIVE)
        if decisive and saved.get(key) != wanted.get(key):
            return f"{key} was {saved.get(key)!r} and is {wanted.get(key)!r}"
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
