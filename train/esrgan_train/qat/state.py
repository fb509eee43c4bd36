"""The state of a fine-tuning run (x.qat.pt): one atomic file from which it goes on, on a CPU bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from esrgan_deploy.errors import OptionError
from esrgan_export.quantise import Prepared
from esrgan_train.qat.crops import Crops
from esrgan_train.recipe.errors import shown
from esrgan_train.run_folder import is_there
from esrgan_train.saved_state import AdamEntries, Comparison, Entries, Score, Steps, Tensors, parse, read_entries

About = Mapping[str, int | float | str]
"""Everything that the result of a run depends on. A state can be resumed only if all of it is equal."""
REMEDY = "remove it and begin again"


class QatState(Entries):
    """The content of x.qat.pt."""

    about: dict[str, int | float | str]
    step: Steps
    student: Tensors
    optimiser: AdamEntries
    first_db: Score
    best_db: Score
    best: Tensors


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
    if is_there(path) and not resume:
        raise OptionError(f"{path}: holds a run already; go on with it by --resume, or remove it")


def load(path: Path, about: About, student: nn.Module, optimiser: Optimizer) -> QatState:
    """Read a state back, with every entry as `student` and its `optimiser` need it; nothing in the file is executed.

    Raises:
        ModelError: the file is damaged; the entry is named.
        OptionError: it is the state of another run (the first difference is named).
        MachineError: it does not fit into memory.
    """
    state = parse(QatState, read_entries(path, REMEDY), path, REMEDY)
    for key in [*about, *state.about]:
        if state.about.get(key) != about.get(key):
            raise OptionError(
                f"{path}: belongs to another run: {key} was {shown(state.about.get(key))} and is "
                f"{shown(about.get(key))}; set it back, or remove the file and begin again"
            )
    fit = Comparison(path, REMEDY)
    fit.tensors("student", state.student, student.state_dict())
    fit.adam("optimiser", state.optimiser, optimiser)
    fit.tensors("best", state.best, student.state_dict())
    return state
