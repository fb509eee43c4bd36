"""The learning rate as a function of the step, so that no state of a schedule has to be saved."""

from __future__ import annotations

import math

from esrgan_train.recipe import Constant, MultiStep, Schedule


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """The learning rate of step `step`, which counts from 0 to `steps` - 1.

    Cosine (Loshchilov and Hutter 2017, equation 5, with equal periods): floor + (base - floor) / 2 * (1 + cos(pi t)),
    t the share of the period that is done. Beyond the last period the rate stays at `floor`. A period begins with the
    full rate, as in PyTorch's CosineAnnealingWarmRestarts; in BasicSR its first step still has the floor.

    Args:
        schedule: the shape of the curve.
        base: the optimiser's learning rate.
        step: counted from 0.
        steps: number of steps in the run.
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
