"""A fine-tuning run from top to bottom: begin or restore, step, validate, save."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam

from esrgan_deploy.budget import check_memory
from esrgan_deploy.cli.progress import Progress
from esrgan_deploy.errors import MachineError
from esrgan_export.quantise import Prepared
from esrgan_export.quantise.mixed import mean_noise
from esrgan_train.divergence import DivergedError
from esrgan_train.losses.l1 import l1
from esrgan_train.processes import stop_on_signals
from esrgan_train.qat.crops import Crops
from esrgan_train.qat.state import About, check_no_state, describe, load
from esrgan_train.qat.student import copy_weights, least_scales, make_student, parameter_groups, with_student
from esrgan_train.recipe import Cosine
from esrgan_train.run_folder import is_there, remove_abandoned
from esrgan_train.schedule import learning_rate
from esrgan_train.state import load_adam, save_state

WARM_UP = 0.1
"""Share of the steps in which the rate rises, since Adam's first steps move every value by the full rate."""
_BYTES_PER_PIXEL = 512
"""The least that a step needs for each pixel of its crops: 32 channels of four layers, in fp32."""
PERFECT = 1e-12
"""The mean square error, 120 dB, that counts for a student whose output equals its teacher's."""


@dataclass(frozen=True)
class QatSettings:
    """The options of a run. They are part of its state, by these names."""

    steps: int = 500
    batch: int = 4
    """Crops in a step."""
    side: int = 48
    """Side of a crop in pixels; a multiple of the network's `multiple_of`."""
    rate: float = 3e-4
    """Adam's learning rate as a share of each tensor's RMS value. It rises, then falls to 0 along half a cosine."""
    seed: int = 0
    judge_every: int = 50
    """Steps between two validations on the held-out crops, each followed by a save."""


def check_batch(settings: QatSettings) -> None:
    """Raise MachineError if a step cannot fit into memory."""
    needed = settings.batch * settings.side**2 * _BYTES_PER_PIXEL
    check_memory(f"--batch {settings.batch} (a smaller one needs less)", "a training step", needed)


@dataclass
class _Run:
    """A run as it is between two steps."""

    teacher: nn.Module
    student: nn.Module
    optimiser: Adam
    least_scales: list[tuple[nn.Parameter, float]]
    held_out: list[Tensor]
    references: list[Tensor]
    """The teacher's outputs for `held_out`."""
    first_db: float = -math.inf
    """PSNR of the student before the first step."""
    best_db: float = -math.inf
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    step: int = 0
    """Number of steps taken."""


def fine_tune(
    prepared: Prepared,
    crops: Crops,
    settings: QatSettings,
    state: Path,
    *,
    resume: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Train the INT8 form of a network to give the same pictures as its float form; on a GPU if there is one.

    The loss is L1 between the outputs of both. The weights that score best on the held-out crops are returned; if no
    step improved them, those are the weights from before. On one CPU the same arguments give the same result,
    interrupted or not.

    Args:
        prepared: from `prepare`; is not changed.
        crops: from `cut_crops`.
        settings: see `QatSettings`.
        state: file for the state of the run; its folder exists. The caller removes it after the run.
        resume: go on after `state`, if it exists.
        progress: called with one line at each validation.

    Raises:
        OptionError: `state` exists and no `resume`; or it belongs to another run.
        ModelError: `state` is damaged.
        OutputError: `state` cannot be written.
        MachineError: not enough memory.
        DivergedError: the loss is not finite; `state` is unchanged.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; `state` was saved.
    """
    about = describe(prepared, crops, dataclasses.asdict(settings))
    check_no_state(state, resume)
    remove_abandoned(state)
    run = _set_up(prepared, crops, settings)
    if is_there(state):
        _restore(run, state, about)
    else:
        _validate(run, progress)
        run.first_db = run.best_db
    _fit(run, crops, settings, state, about, progress)
    run.student.load_state_dict(run.best)
    progress(f"INT8 to fp32 on held-out crops: {run.first_db:.2f} dB before, {run.best_db:.2f} dB after")
    return with_student(prepared, run.student, run.best_db)


def _fit(
    run: _Run, crops: Crops, settings: QatSettings, state: Path, about: About, progress: Callable[[str], None]
) -> None:
    """Take steps, validate and save, until the last step or until a signal asks to stop."""
    with stop_on_signals() as stop, Progress("step", settings.steps, run.step) as bar:
        while run.step < settings.steps and not stop.is_set():
            _take_step(run, crops, settings, state)
            bar(run.step, note=f"{run.best_db:.2f} dB")
            due = run.step % settings.judge_every == 0 or run.step == settings.steps
            if due:
                _validate(run, progress)
            if due or stop.is_set():
                _save(run, state, about)
    if stop.is_set():
        raise KeyboardInterrupt(f"{run.step} of {settings.steps} steps are in {state}; go on with --resume")


def _set_up(prepared: Prepared, crops: Crops, settings: QatSettings) -> _Run:
    """Build a run as it is before its first step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = make_student(prepared).to(device)
    teacher = copy.deepcopy(prepared.network).to(device)
    held_out = [crop.to(device) for crop in crops.validation()]
    with torch.inference_mode():
        references = [teacher(crop) for crop in held_out]
    optimiser = Adam(parameter_groups(student, settings.rate))
    return _Run(teacher, student, optimiser, least_scales(student), held_out, references)


def _take_step(run: _Run, crops: Crops, settings: QatSettings, state: Path) -> None:
    """Take one step with Adam."""
    batch = crops.batch(settings.seed, run.step, settings.batch).to(run.held_out[0].device)
    schedule = Cosine(schedule="cosine", floor=0.0, warmup=int(WARM_UP * settings.steps))
    share = learning_rate(schedule, 1.0, run.step, settings.steps)
    for group in run.optimiser.param_groups:
        group["lr"] = group["base"] * share
    try:
        with torch.no_grad():
            wanted = run.teacher(batch)
        loss = l1(run.student(batch), wanted)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            size = f"{batch.shape[3]}x{batch.shape[2]}"
            raise MachineError(f"not enough memory for {len(batch)} crops of {size}; lower --batch") from error
        raise
    if not math.isfinite(loss.item()):
        raise DivergedError(f"{state}: step {run.step + 1} has a loss of {loss.item()}; begin again with a lower --lr")
    run.optimiser.step()
    with torch.no_grad():
        for scale, least in run.least_scales:
            scale.clamp_min_(least)
    run.step += 1


def _validate(run: _Run, progress: Callable[[str], None]) -> None:
    """Measure the PSNR of the student to its teacher on the held-out crops, and keep the best weights."""
    psnr = -10 * math.log10(mean_noise(run.student, run.held_out, run.references) or PERFECT)
    progress(f"step {run.step}: {psnr:.2f} dB to fp32 on held-out crops")
    if psnr > run.best_db:
        run.best_db, run.best = psnr, copy_weights(run.student)


def _save(run: _Run, path: Path, about: About) -> None:
    state = {
        "about": dict(about),
        "step": run.step,
        "student": run.student.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "first_db": run.first_db,
        "best_db": run.best_db,
        "best": run.best,
    }
    save_state(state, path)


def _restore(run: _Run, path: Path, about: About) -> None:
    state = load(path, about, run.student, run.optimiser)
    run.student.load_state_dict(state.student)
    load_adam(run.optimiser, state.optimiser)
    run.step, run.first_db = state.step, state.first_db
    run.best_db, run.best = state.best_db, state.best
