"""PSNR and SSIM on luma and on RGB; scikit-image is the independent implementation of both, and of the conversion."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_export.metrics import mean_psnr, psnr_rgb, psnr_y, ssim_rgb, ssim_y

skimage_color = pytest.importorskip("skimage.color")
from skimage import data, metrics  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    """A photo, and the same after every second row and column was lost."""
    hr = data.chelsea()[20:200, 40:300]
    return hr[::2, ::2].repeat(2, 0).repeat(2, 1), hr


def luma_by_skimage(picture, shave):
    return skimage_color.rgb2ycbcr(picture)[shave:-shave, shave:-shave, 0]


@pytest.mark.parametrize("shave", [1, 4])
def test_psnr_agrees_with_scikit_image(pair, shave):
    sr, hr = pair
    luma = [luma_by_skimage(picture, shave) for picture in (hr, sr)]
    assert psnr_y(sr, hr, shave) == pytest.approx(metrics.peak_signal_noise_ratio(*luma, data_range=255), abs=1e-9)
    rgb = [picture[shave:-shave, shave:-shave] for picture in (hr, sr)]
    assert psnr_rgb(sr, hr, shave) == pytest.approx(metrics.peak_signal_noise_ratio(*rgb, data_range=255), abs=1e-9)


def wang_ssim_by_skimage(a, b, **options):
    """Its switches for the variant of Wang et al.; it crops the border to windows that lie inside by itself."""
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return metrics.structural_similarity(a, b, **wang, **options)


@pytest.mark.parametrize("shave", [1, 4])
def test_ssim_agrees_with_scikit_image(pair, shave):
    sr, hr = pair
    luma = [luma_by_skimage(picture, shave) for picture in (hr, sr)]
    assert ssim_y(sr, hr, shave) == pytest.approx(wang_ssim_by_skimage(*luma), abs=1e-9)
    rgb = [picture[shave:-shave, shave:-shave].astype(float) for picture in (hr, sr)]
    assert ssim_rgb(sr, hr, shave) == pytest.approx(wang_ssim_by_skimage(*rgb, channel_axis=2), abs=1e-9)


def test_luma_is_studio_swing_and_not_rounded():
    """Black against white is 219 steps of luma, not 255; one step of blue is a tenth of a step, not none."""
    black, white, blue = (np.full((12, 12, 3), colour, np.uint8) for colour in ((0, 0, 0), (255, 255, 255), (0, 0, 1)))
    assert psnr_y(white, black, 0) == pytest.approx(20 * math.log10(255 / 219))
    assert psnr_y(blue, black, 0) == pytest.approx(20 * math.log10(255**2 / 24.966))


def test_red_and_blue_are_not_exchanged():
    black, red = np.zeros((2, 12, 12, 3), np.uint8)
    red[..., 0] = 100
    assert psnr_y(red, black, 0) == pytest.approx(20 * math.log10(255 / (100 * 65.481 / 255)))


def test_only_the_border_is_shaved(pair):
    _, hr = pair
    framed = hr.copy()
    framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 0, 0, 0, 0
    assert psnr_y(framed, hr, 4) == math.inf
    assert ssim_y(framed, hr, 4) == pytest.approx(1)
    assert psnr_y(framed, hr, 3) < 40


def test_one_perfect_picture_neither_poisons_nor_lowers_a_mean():
    assert mean_psnr([20.0, 30.0, math.inf]) == pytest.approx((20 + 30 + 100) / 3)
    assert mean_psnr([math.inf]) == 100
    assert mean_psnr([30.0, -math.inf]) == -math.inf
    with pytest.raises(ValueError, match="no PSNR"):
        mean_psnr([])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5), st.integers(0, 4), st.floats(0, 100))
def test_a_better_picture_never_lowers_the_mean(values, index, gain):
    better = list(values)
    better[index % len(values)] += gain
    assert mean_psnr(better) >= mean_psnr(values)


@pytest.mark.parametrize("metric", [psnr_y, psnr_rgb, ssim_y, ssim_rgb])
def test_what_cannot_be_compared_is_refused(pair, metric):
    sr, hr = pair
    with pytest.raises(ValueError, match="one size"):
        metric(sr[:-1], hr, 4)
    with pytest.raises(ValueError, match="float64"):
        metric(sr / 255, hr / 255, 4)
    with pytest.raises(ValueError, match="border of 90"):
        metric(sr, hr, 90)


def test_ssim_of_less_than_a_window_is_refused(pair):
    sr, hr = pair
    with pytest.raises(ValueError, match="11x11 pixels, 30x10"):
        ssim_y(sr[:18, :38], hr[:18, :38], 4)
