"""A fine-tuning run, top to bottom: begin or restore, step, judge, save."""

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

from esrgan_deploy.cli.progress import Progress
from esrgan_deploy.errors import MachineError
from esrgan_export.quantise import Prepared
from esrgan_export.quantise.mixed import mean_noise
from esrgan_train.loop import DivergedError, stopping
from esrgan_train.losses.l1 import l1
from esrgan_train.qat.crops import Crops
from esrgan_train.qat.saved import About, describe, load, refuse_overwriting
from esrgan_train.qat.student import copy_weights, least_scales, make_student, parameter_groups, with_student
from esrgan_train.recipe import Cosine
from esrgan_train.schedule import learning_rate
from esrgan_train.state import save_state

WARM_UP = 0.1
"""Share of the steps in which the rate rises: Adam's first steps move everything at once, by the full rate."""
PERFECT = 1e-12
"""A mean square, which gives 120 dB: what a student that does nothing else than its teacher is said to have."""


@dataclass(frozen=True)
class Settings:
    """What decides a run, beside its network and its pictures."""

    steps: int = 500
    batch: int = 4
    """Crops in a step."""
    side: int = 48
    """Of a crop, in pixels; a multiple of the network's `multiple_of`."""
    rate: float = 3e-4
    """Of Adam, as a share of each tensor's typical value: it rises, and falls to 0 along half a cosine."""
    seed: int = 0
    judge_every: int = 50
    """Steps between two judgements and saves."""


@dataclass
class _Run:
    """A run between two steps."""

    teacher: nn.Module
    student: nn.Module
    optimiser: Adam
    floors: list[tuple[nn.Parameter, float]]
    judges: list[Tensor]
    references: list[Tensor]
    """What the teacher makes of them."""
    first_db: float = -math.inf
    """PSNR of the student before the first step."""
    best_db: float = -math.inf
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    step: int = 0
    """Steps done."""


def fine_tune(
    prepared: Prepared,
    crops: Crops,
    settings: Settings,
    state: Path,
    *,
    resume: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Train the INT8 form of a network to give what its float form gives; on a GPU, where there is one.

    The loss is L1 between the outputs of both. What scored best on the held-out crops is returned, which is what came
    in if no step made it better. On one CPU the same arguments give the same result, interrupted or not.

    Args:
        prepared: from `prepare`; is not changed.
        crops: from `cut_crops`.
        settings: see there.
        state: where the run is saved; its folder exists. It stays when the run is over, for the caller to remove.
        resume: go on after `state`, if it exists.
        progress: called with one line at each judgement.

    Raises:
        OptionError: `state` exists and no `resume`; or it belongs to another run.
        ModelError: `state` is damaged.
        OutputError: `state` cannot be written.
        MachineError: not enough memory.
        DivergedError: the loss is not finite; `state` is as it was.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; `state` was saved.
    """
    about = describe(prepared, crops, dataclasses.asdict(settings))
    refuse_overwriting(state, resume)
    for abandoned in state.parent.glob(f".{state.stem}.*.part{state.suffix}"):  # what a kill left of a save
        abandoned.unlink()
    run = _set_up(prepared, crops, settings)
    if state.exists():
        _restore(run, state, about)
    else:
        _judge(run, progress)
        run.first_db = run.best_db
    _fit(run, crops, settings, state, about, progress)
    run.student.load_state_dict(run.best)
    progress(f"INT8 to fp32 on held-out crops: {run.first_db:.2f} dB before, {run.best_db:.2f} dB after")
    return with_student(prepared, run.student, run.best_db)


def _fit(
    run: _Run, crops: Crops, settings: Settings, state: Path, about: About, progress: Callable[[str], None]
) -> None:
    """Step after step, judged and saved now and then, until the last one or until it is interrupted."""
    with stopping() as stop, Progress("step", settings.steps, run.step) as bar:
        while run.step < settings.steps and not stop.is_set():
            _take_step(run, crops, settings, state)
            bar(run.step, note=f"{run.best_db:.2f} dB")
            due = run.step % settings.judge_every == 0 or run.step == settings.steps
            if due:
                _judge(run, progress)
            if due or stop.is_set():
                _save(run, state, about)
    if stop.is_set():
        raise KeyboardInterrupt(f"{run.step} of {settings.steps} steps are in {state}; go on with --resume")


def _set_up(prepared: Prepared, crops: Crops, settings: Settings) -> _Run:
    """A run as it is before its first step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = make_student(prepared).to(device)
    teacher = copy.deepcopy(prepared.network).to(device)
    judges = [crop.to(device) for crop in crops.judges()]
    with torch.inference_mode():
        references = [teacher(crop) for crop in judges]
    optimiser = Adam(parameter_groups(student, settings.rate))
    return _Run(teacher, student, optimiser, least_scales(student), judges, references)


def _take_step(run: _Run, crops: Crops, settings: Settings, state: Path) -> None:
    """One step of Adam."""
    batch = crops.batch(settings.seed, run.step, settings.batch).to(run.judges[0].device)
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
        for scale, least in run.floors:
            scale.clamp_min_(least)
    run.step += 1


def _judge(run: _Run, progress: Callable[[str], None]) -> None:
    """PSNR of the student to its teacher on the held-out crops; the best weights are kept."""
    psnr = -10 * math.log10(mean_noise(run.student, run.judges, run.references) or PERFECT)
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
    state = load(path, about)
    run.student.load_state_dict(state["student"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.step, run.first_db = state["step"], state["first_db"]
    run.best_db, run.best = state["best_db"], state["best"]
