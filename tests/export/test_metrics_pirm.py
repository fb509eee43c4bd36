"""RMSE, regions and perceptual index of PIRM 2018, and back-projection."""

import numpy as np
import pytest

from esrgan_export.back_projection import back_project
from esrgan_export.bicubic import downscale, upscale
from esrgan_export.metrics import perceptual_index, pirm_mse, pirm_region, pirm_rmse

skimage_data = pytest.importorskip("skimage.data")


def test_luma_is_rounded_before_it_is_compared():
    """Blue of 5 adds 0.49 to luma: PIRM sees nothing. Blue of 6 adds 0.59, and that is a whole step."""
    black = np.zeros((16, 16, 3), np.uint8)
    for blue, expected in ((5, 0), (6, 1)):
        picture = black.copy()
        picture[..., 2] = blue
        assert pirm_mse(picture, black) == expected


def test_four_pixels_are_shaved():
    black, dotted = np.zeros((2, 12, 12, 3), np.uint8)
    dotted[3, 6] = 255
    assert pirm_mse(dotted, black) == 0
    dotted[4, 6] = 255
    assert pirm_mse(dotted, black) == 219**2 / 16


def test_rmse_of_a_data_set_is_the_root_of_the_mean():
    assert pirm_rmse([100.0, 400.0]) == pytest.approx(250**0.5)  # not (10 + 20) / 2
    with pytest.raises(ValueError, match="no picture"):
        pirm_rmse([])


def test_regions():
    found = [pirm_region(rmse) for rmse in (0, 11.5, 11.51, 12.5, 12.51, 16, 16.01)]
    assert found == [1, 1, 2, 2, 3, 3, None]


def test_perceptual_index():
    assert perceptual_index(ma=10, niqe=0) == 0
    assert perceptual_index(ma=8.5, niqe=2.5) == pytest.approx((1.5 + 2.5) / 2)


@pytest.fixture(scope="module")
def photo():
    return skimage_data.astronaut()[100:228, 180:308]


def consistency(sr, lr):
    return np.sqrt(np.mean((downscale(sr, 4).astype(float) - lr) ** 2))


def test_back_projection_approaches_a_picture_that_shrinks_to_lr(photo):
    lr = downscale(photo, 4)
    sharp = np.clip(1.5 * upscale(lr, 4).astype(float) - 40, 0, 255).astype(
        np.uint8
    )  # wrong contrast, wrong brightness
    distances = [consistency(back_project(sharp, lr, n), lr) for n in (0, 1, 3, 10)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 20
    assert distances[-1] < 1


def test_back_projection_raises_psnr_of_bicubic(photo):
    lr = downscale(photo, 4)
    plain, projected = upscale(lr, 4), back_project(upscale(lr, 4), lr, 10)
    assert pirm_mse(projected, photo) < 0.95 * pirm_mse(plain, photo)


def test_consistent_picture_stays(photo):
    grey = np.full((16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(back_project(grey, grey[:4, :4], 5), grey)
    np.testing.assert_array_equal(back_project(photo, downscale(photo, 4), 0), photo)


@pytest.mark.parametrize("shape", [(64, 60, 3), (63, 64, 3), (8, 8, 3)])
def test_sizes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="whole multiple"):
        back_project(np.zeros(shape, np.uint8), np.zeros((16, 16, 3), np.uint8), 1)
