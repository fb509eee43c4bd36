"""Pixel losses against numbers worked out by hand, and their gradients against finite differences."""

from math import sqrt

import pytest

pytest.importorskip("torch", reason="losses need the 'train' extra")

import torch
from torch.autograd import gradcheck

from esrgan_train.losses.charbonnier import charbonnier
from esrgan_train.losses.l1 import l1
from esrgan_train.losses.mse import mse
from esrgan_train.losses.total_variation import total_variation

SR = [0.0, 0.5, 1.0]
HR = [0.3, 0.5, 0.2]  # errors -0.3, 0, 0.8
NORMS = [0.5, 0.4, sqrt(0.8)]  # sqrt(error^2 + 0.4^2)


def charbonnier_04(sr, hr):
    return charbonnier(sr, hr, epsilon=0.4)


def two_pictures(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    sr, hr = torch.rand(2, 2, 3, 5, 4, generator=generator, dtype=torch.float64).to(dtype)
    return sr.requires_grad_(), hr


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (l1, 1.1 / 3, [-1 / 3, 0, 1 / 3]),
        (mse, 0.73 / 3, [-0.6 / 3, 0, 1.6 / 3]),
        (charbonnier_04, sum(NORMS) / 3, [-0.3 / 0.5 / 3, 0, 0.8 / sqrt(0.8) / 3]),
    ],
)
def test_value_and_gradient_by_hand(loss, value, gradient):
    sr = torch.tensor(SR, dtype=torch.float64, requires_grad=True)
    result = loss(sr, torch.tensor(HR, dtype=torch.float64))
    result.backward()
    assert result.item() == pytest.approx(value, rel=1e-12)
    assert sr.grad.tolist() == pytest.approx(gradient, rel=1e-12)


@pytest.mark.parametrize("loss", [l1, mse, charbonnier_04])
def test_gradient_is_that_of_finite_differences(loss):
    sr, hr = two_pictures()
    assert gradcheck(loss, (sr, hr))


@pytest.mark.parametrize("loss", [l1, mse, charbonnier])
def test_bf16_pictures_are_compared_in_fp32(loss):
    sr, hr = two_pictures(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(sr, hr)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(loss(sr.double(), hr.double()).item(), rel=1e-6)


def test_mse_of_the_papers_range_is_four_times_ours():
    sr, hr = two_pictures()
    assert mse(2 * sr - 1, 2 * hr - 1).item() == pytest.approx(4 * mse(sr, hr).item())


def test_total_variation_by_hand():
    """(dx, dy) = (3, 4), then (-, -3) with no column to the right, (-4, -) with no row below, and neither."""
    sr = torch.tensor([[0.0, 3.0], [4.0, 0.0]]).expand(2, 3, 2, 2)
    assert total_variation(sr).item() == pytest.approx((5 + 3 + 4 + 0) / 4)


def test_total_variation_has_the_gradient_of_finite_differences():
    assert gradcheck(total_variation, (two_pictures()[0],))


def test_total_variation_of_a_flat_picture_has_no_gradient():
    """Trap: the square root's derivative at 0 is infinite, and 0 * infinity is NaN."""
    sr = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    total_variation(sr).backward()
    assert sr.grad.abs().max() == 0


def test_total_variation_is_in_fp32():
    sr, _ = two_pictures(torch.bfloat16)
    assert total_variation(sr).item() == pytest.approx(total_variation(sr.double()).item(), rel=1e-6)
