"""The state of a fine-tuning run (x.qat.pt): one atomic file from which it goes on, on a CPU bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.quantise import Prepared
from esrgan_train.qat.crops import Crops
from esrgan_train.state import State

About = Mapping[str, int | float | str]
"""Everything that the result of a run depends on. A state can be resumed only if all of it is equal."""


def describe(prepared: Prepared, crops: Crops, settings: Mapping[str, int | float]) -> About:
    """What the run depends on, by the name that error messages use."""
    weights = hashlib.sha256()
    for name, tensor in prepared.network.state_dict().items():
        weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    pixels = hashlib.sha256(crops.training.tobytes() + crops.held_out.tobytes())
    scales = repr(sorted(prepared.scales.items()))
    return {
        "network": weights.hexdigest()[:12],
        "pictures": pixels.hexdigest()[:12],
        "grid": hashlib.sha256(scales.encode()).hexdigest()[:12],
        **settings,
    }


def check_no_state(path: Path, resume: bool) -> None:
    """Raise OptionError if there is a state at `path`, which a run without `resume` would overwrite."""
    if path.exists() and not resume:
        raise OptionError(f"{path}: holds a run already; go on with it by --resume, or remove it")


def load(path: Path, about: About) -> State:
    """Read a state back; nothing in the file is executed.

    Raises:
        ModelError: the file is damaged.
        OptionError: it is the state of another run (the first difference is named).
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict(state["about"])
    except Exception as error:  # damaged streams make it raise nearly anything
        raise ModelError(f"{path}: is no complete state of fine-tuning; remove it and begin again") from error
    for key in [*about, *saved]:
        if saved.get(key) != about.get(key):
            raise OptionError(
                f"{path}: belongs to another run: {key} was {saved.get(key)} and is {about.get(key)}; "
                "set it back, or remove the file and begin again"
            )
    return state
