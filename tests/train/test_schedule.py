"""Learning rates, against PyTorch's own schedulers stepped one by one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, MultiStepLR

from esrgan_train.recipe import Constant, Cosine, MultiStep
from esrgan_train.schedule import learning_rate


def rates_of_torch(base, steps, make) -> list[float]:
    optimiser = SGD([torch.nn.Parameter(torch.zeros(1))], base)
    scheduler: LRScheduler = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def rates_of_ours(schedule, base, steps, run=None):
    return [learning_rate(schedule, base, step, run or steps) for step in range(steps)]


def test_constant_is():
    assert set(rates_of_ours(Constant(), 3e-4, 50)) == {3e-4}


@settings(max_examples=30)
@given(at=st.sets(st.integers(1, 59), min_size=1, max_size=6), factor=st.floats(0.05, 1), base=st.floats(1e-5, 1))
def test_multistep_is_torchs(at, factor, base):
    ours = rates_of_ours(MultiStep(schedule="multistep", at=sorted(at), factor=factor), base, 60)
    theirs = rates_of_torch(base, 60, lambda optimiser: MultiStepLR(optimiser, sorted(at), factor))
    assert ours == pytest.approx(theirs, rel=1e-12)


@settings(max_examples=30)
@given(steps=st.integers(1, 80), base=st.floats(1e-4, 1), floor=st.floats(0, 1e-4))
def test_one_period_is_torchs_cosine(steps, base, floor):
    ours = rates_of_ours(Cosine(schedule="cosine", floor=floor), base, steps)
    theirs = rates_of_torch(base, steps, lambda optimiser: CosineAnnealingLR(optimiser, steps, floor))
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12)


@settings(max_examples=30)
@given(period=st.integers(1, 30), periods=st.integers(1, 5), base=st.floats(1e-4, 1), floor=st.floats(0, 1e-4))
def test_periods_are_torchs_warm_restarts(period, periods, base, floor):
    steps = period * periods
    ours = rates_of_ours(Cosine(schedule="cosine", periods=periods, floor=floor), base, steps)
    theirs = rates_of_torch(base, steps, lambda optimiser: CosineAnnealingWarmRestarts(optimiser, period, 1, floor))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_the_official_schedule_at_the_points_that_can_be_worked_out():
    """RRDBNet_PSNR_x4: 2e-4, four periods of 250k, 1e-7."""
    schedule = Cosine(schedule="cosine", periods=4, floor=1e-7)
    rate = [learning_rate(schedule, 2e-4, step, 1_000_000) for step in (0, 125_000, 249_999, 250_000, 875_000, 999_999)]
    assert rate == pytest.approx([2e-4, (2e-4 + 1e-7) / 2, 1e-7, 2e-4, (2e-4 + 1e-7) / 2, 1e-7], rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), 1e-3),
        (MultiStep(schedule="multistep", at=[5], factor=0.1), 1e-4),
        (Cosine(schedule="cosine", periods=2, floor=1e-6), 1e-6),
        (Cosine(schedule="cosine", periods=3, floor=1e-6, warmup=2), 1e-6),
    ],
)
@pytest.mark.parametrize("beyond", [0, 1, 7, 10**6])
def test_beyond_the_last_period_there_is_still_a_rate(schedule, expected, beyond):
    """BasicSR's cosine returns None there, and the run dies."""
    assert learning_rate(schedule, 1e-3, 10 + beyond, 10) == pytest.approx(expected)


@settings(max_examples=30)
@given(steps=st.integers(2, 100), warmup=st.integers(1, 50), base=st.floats(1e-4, 1))
def test_warm_up_rises_linearly_to_the_cosine_and_then_leaves_it_alone(steps, warmup, base):
    warmup = min(warmup, steps - 1)
    warm = rates_of_ours(Cosine(schedule="cosine", warmup=warmup, floor=0), base, steps)
    plain = rates_of_ours(Cosine(schedule="cosine", floor=0), base, steps)
    shares = [a / b for a, b in zip(warm, plain, strict=True)]
    assert shares == pytest.approx([min(1, (step + 1) / (warmup + 1)) for step in range(steps)])
    assert warm[0] > 0


@settings(max_examples=50)
@given(
    steps=st.integers(1, 10**6), periods=st.integers(1, 7), share=st.floats(0, 1, exclude_max=True),
    base=st.floats(1e-4, 1),
)  # fmt: skip
def test_periods_that_do_not_divide_the_run_stay_within_their_bounds(steps, periods, share, base):
    schedule = Cosine(schedule="cosine", periods=periods, floor=1e-7)
    rate = learning_rate(schedule, base, int(share * steps), steps)
    assert math.isfinite(rate)
    assert 1e-7 <= rate <= base
