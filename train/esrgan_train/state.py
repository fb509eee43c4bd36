"""The training checkpoint: one atomic file from which a run goes on bit for bit.

What is a function of the step (learning rates, which samples come next) is not in it. Random states and batch
normalisation's running statistics differ from process to process; there is one entry for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.system.files import replacing
from esrgan_train.recipe import UNDECISIVE

State = dict[str, Any]
FORMAT = 1


def save_state(state: State, path: Path) -> None:
    """Write `state` completely or not at all; the one before stays until then.

    Raises:
        OutputError: the disk is full, or the folder is gone.
    """
    with replacing(path) as partial:
        try:
            with partial.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:  # torch's writer fails once more while it closes; a full disk is the error before
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_state(path: Path, recipe_yaml: str, digest: str, world: int) -> State:
    """Read a state back; nothing in the file is executed.

    Args:
        path: of the file.
        recipe_yaml: the effective recipe of the run that wants to go on, and
        digest: its `Recipe.digest()`, which must be the one that the state was saved under.
        world: processes of that run, likewise.

    Raises:
        ModelError: the file is damaged, or of another version.
        OptionError: it belongs to another recipe, whose first difference is named, or to another number of processes.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
        saved_by = len(state["processes"])
    except Exception as error:  # damaged streams make it raise nearly anything
        raise ModelError(
            f"{path}: is no complete training state; take another copy or begin in a new folder"
        ) from error
    if version != FORMAT:
        raise ModelError(f"{path}: has format {version}, this version reads {FORMAT}; begin in a new folder")
    if state["digest"] != digest:
        raise OptionError(
            f"{path}: belongs to another recipe: {_first_difference(state['recipe'], recipe_yaml)}; "
            "set it back, or begin in another folder with -o"
        )
    if saved_by != world:
        raise OptionError(f"{path}: was saved by {saved_by} processes, not {world}; go on with --devices {saved_by}")
    return state


def _first_difference(theirs: str, ours: str) -> str:
    saved, wanted = (_flatten(yaml.safe_load(text)) for text in (theirs, ours))
    for key in sorted(saved.keys() | wanted.keys()):
        decisive = not any(key == path or key.startswith(f"{path}.") for path in UNDECISIVE)
        if decisive and saved.get(key) != wanted.get(key):
            return f"{key} was {saved.get(key)!r} and is {wanted.get(key)!r}"
    return "its meaning has changed with the version of this program"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - YAML
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
