"""The learning rate as a function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from esrgan_train.recipe import Constant, MultiStep, Schedule


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """The rate of step `step`, 0 to `steps` - 1, of a run of `steps`.

    Cosine (Loshchilov and Hutter 2017, equation 5, with equal periods): floor + (base - floor) / 2 * (1 + cos(pi t)),
    t the share of the period that is done. Beyond the last period the rate stays at `floor`. A period begins with the
    full rate, as PyTorch's CosineAnnealingWarmRestarts has it; BasicSR gives that step the floor once more.

    Args:
        schedule: which curve.
        base: the optimiser's rate.
        step: counted from 0.
        steps: length of the run.
    """
    if isinstance(schedule, Constant):
        return base
    if isinstance(schedule, MultiStep):
        return base * schedule.factor ** sum(step >= at for at in schedule.at)
    if step >= steps:
        return schedule.floor
    period = steps / schedule.periods
    done = (step % period) / period
    rate = schedule.floor + (base - schedule.floor) / 2 * (1 + math.cos(math.pi * done))
    return rate * min(1.0, (step + 1) / (schedule.warmup + 1))
