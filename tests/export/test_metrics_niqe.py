"""NIQE against BasicSR 1.4.2, which was compared with the authors' MATLAB code (5.7296 both on its test picture).

The golden values were computed with BasicSR's `calculate_niqe` on scikit-image's photos. It works in single precision,
so the last digits differ.
"""

import cv2
import numpy as np
import pytest

from esrgan_deploy import MediaError
from esrgan_export.metrics import niqe

skimage_data = pytest.importorskip("skimage.data")

DEGRADATIONS = {
    "as it is": lambda photo: photo,
    "coarse": lambda photo: photo[::2, ::2].repeat(2, 0).repeat(2, 1),
    "blurred": lambda photo: cv2.blur(photo, (5, 5)),
}
GOLDEN = [
    ("chelsea", "as it is", 0, 2.625536),
    ("chelsea", "as it is", 4, 2.689315),
    ("chelsea", "coarse", 0, 7.339136),
    ("chelsea", "coarse", 4, 7.383016),
    ("chelsea", "blurred", 4, 7.173725),
    ("coffee", "as it is", 4, 4.079430),
    ("coffee", "blurred", 4, 6.659476),
    ("astronaut", "as it is", 0, 3.064607),  # has burnt-out parts, where only noise of the arithmetic is left
    ("astronaut", "as it is", 4, 2.990512),
]


@pytest.mark.parametrize(("photo", "degradation", "shave", "expected"), GOLDEN)
def test_values_of_basicsr(photo, degradation, shave, expected):
    picture = DEGRADATIONS[degradation](getattr(skimage_data, photo)())
    assert niqe(picture, shave) == pytest.approx(expected, abs=1e-3)


def test_flat_block_counts_as_in_the_original():
    """A block without any variation has no shape: it counts with the smallest alpha, and with nothing else."""
    picture = skimage_data.coffee()
    picture[90:198, 90:198] = (20, 200, 70)
    assert niqe(picture) == pytest.approx(4.142042, abs=1e-3)  # left out altogether: 4.2132


def test_what_fills_no_block_is_left_out():
    photo = skimage_data.coffee()
    changed = photo.copy()
    changed[384:], changed[:, 576:] = 0, 255
    assert niqe(changed) == niqe(photo)
    changed[383] = 0
    assert niqe(changed) != niqe(photo)


def test_two_blocks_are_enough_and_one_is_not():
    photo = skimage_data.coffee()
    assert 0 < niqe(photo[:96, :192]) < 20
    with pytest.raises(MediaError, match="191x96 pixels hold 1"):
        niqe(photo[:96, :191])
    with pytest.raises(MediaError, match="184x184 pixels hold 1"):
        niqe(photo[:192, :192], shave=4)


def test_flat_picture_is_refused():
    with pytest.raises(MediaError, match="not flat, this picture has 0"):
        niqe(np.full((200, 300, 3), 128, np.uint8))


def test_floats_are_refused():
    with pytest.raises(ValueError, match="float64"):
        niqe(np.zeros((200, 200, 3)))
