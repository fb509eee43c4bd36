"""Where the crops of pages come from."""

import numpy as np
import pytest

from esrgan_export.evaluation.html_images import Crop, centre, most_detailed, thumbnail


@pytest.mark.parametrize(("top", "left"), [(0, 0), (13, 40), (36, 56)])
def test_most_detailed_square_is_found(top, left):
    rng = np.random.default_rng(0)
    picture = np.full((60, 80, 3), 90, np.uint8)
    picture[top : top + 24, left : left + 24] = rng.integers(0, 256, (24, 24, 3))
    picture[30:34, 5:9] = 255  # less detail, stronger edges
    found = most_detailed(picture, 24)
    assert found[2:] == (24, 24)
    assert np.abs(np.subtract(found[:2], (top, left))).max() <= 1  # at an edge, the neighbour changes as well


def test_crops_of_small_pictures_are_the_picture():
    picture = np.zeros((20, 40, 3), np.uint8)
    assert most_detailed(picture, 30)[2:] == (20, 30)
    assert centre(picture, 30) == (0, 5, 20, 30)
    assert centre(picture, 64) == most_detailed(picture, 64) == (0, 0, 20, 40)


def test_thumbnail_is_framed_where_the_crop_is():
    small = thumbnail(np.full((400, 512, 3), 90, np.uint8), 256, Crop(100, 200, 128, 128))
    assert small.shape == (200, 256, 3)
    framed = np.argwhere((small != 90).any(axis=2))
    assert np.abs(framed.min(axis=0) - (50, 100)).max() <= 2
    assert np.abs(framed.max(axis=0) - (113, 163)).max() <= 2
    assert (small[53:110, 103:160] == 90).all()
