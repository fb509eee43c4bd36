"""Colour conversion against the formulas of ITU-R BT.601 and BT.709 and the sample positions of H.264."""

import numpy as np
import pytest

from clips import picture, planes
from esrgan_deploy.video.colour import BT601, BT709, RGB, UNSPECIFIED, Colour, to_rgb, to_yuv

BLOCK, BLOCKS = 32, 8
SIDE = BLOCK * BLOCKS
LUMA_WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), 5: (0.299, 0.114)}
"""Matrix -> weights of red and blue."""


def rgb_of(y, cb, cr, matrix, full):
    """BT.601 / BT.709, exact; code values in and out."""
    kr, kb = LUMA_WEIGHTS[matrix]
    luma, cb, cr = (y / 255, (cb - 128) / 255, (cr - 128) / 255) if full else (
        (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224)  # fmt: skip
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)


def yuv_of(rgb, matrix, full):
    kr, kb = LUMA_WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr)
    if full:
        return luma * 255, cb * 255 + 128, cr * 255 + 128
    return luma * 219 + 16, cb * 224 + 128, cr * 224 + 128


def blocks(values, side=BLOCK):
    return np.kron(values, np.ones((side, side), int))


def centres(plane):
    side = plane.shape[0] // BLOCKS
    return plane[side // 2 :: side, side // 2 :: side]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("tagged", [False, True], ids=["untagged", "tagged"])
def test_yuv_to_rgb_is_the_standards_formula(matrix, full, tagged, rng):
    y, cb, cr = (rng.integers(16, high, (BLOCKS, BLOCKS)) for high in (236, 241, 241))
    frame = picture(blocks(y), blocks(cb, BLOCK // 2), blocks(cr, BLOCK // 2))
    if tagged:
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
    rgb = to_rgb(SIDE, SIDE, "yuv420p", Colour(matrix, full, UNSPECIFIED, UNSPECIFIED))(frame)
    assert rgb.dtype == np.uint8
    assert np.abs(centres(rgb) - rgb_of(y, cb, cr, matrix, full)).max() <= 1.5


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_rgb_to_yuv_is_the_standards_formula(matrix, full, pixel_format, rng):
    rgb = rng.integers(0, 256, (BLOCKS, BLOCKS, 3))
    large = np.kron(rgb, np.ones((BLOCK, BLOCK, 1), int)).astype(np.uint8)
    frame = to_yuv(SIDE, SIDE, pixel_format, Colour(matrix, full, UNSPECIFIED, UNSPECIFIED))(large)
    assert frame.format.name == pixel_format
    for plane, expected in zip(planes(frame), yuv_of(rgb, matrix, full), strict=True):
        assert np.abs(centres(plane) - expected).max() <= 1.5


def test_rgb_sources_pass_unchanged(rng):
    import av

    rgb = rng.integers(0, 256, (48, 64, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="gbrp")
    colour = Colour(RGB, True, UNSPECIFIED, UNSPECIFIED).resolved(64, 48)
    assert np.array_equal(to_rgb(64, 48, "gbrp", colour)(frame), rgb)


@pytest.mark.parametrize(("axis", "offset"), [(1, 0.0), (0, 0.5)], ids=["horizontal", "vertical"])
def test_chroma_is_written_left_and_between_two_lines(axis, offset):
    """H.264 Figure E-1, chroma sample type 0: level with even columns, halfway between lines."""
    ramp = np.broadcast_to(np.arange(SIDE) if axis else np.arange(SIDE)[:, None], (SIDE, SIDE))
    rgb = np.stack([np.full_like(ramp, 128), np.full_like(ramp, 128), ramp], -1).astype(np.uint8)
    frame = to_yuv(SIDE, SIDE, "yuv420p", Colour(BT709, False, UNSPECIFIED, UNSPECIFIED))(rgb)
    cb = planes(frame)[1].mean(axis=1 - axis)[20:100]
    per_pixel = 224 / 255 / 2  # how much cb grows from one column to the next, as blue grows by 1
    position = (cb - yuv_of(np.array([128, 128, 0.0]), BT709, False)[1]) / per_pixel
    assert (position - 2 * np.arange(20, 100)).mean() == pytest.approx(offset, abs=0.1)


@pytest.mark.parametrize(
    ("axis", "centred", "offset"), [(1, False, 0.0), (1, True, 0.5), (0, False, 0.5)], ids=["left", "centre", "lines"]
)
def test_chroma_is_read_where_the_codec_put_it(axis, centred, offset):
    ramp = np.arange(SIDE // 2) + 64
    cb = np.broadcast_to(ramp if axis else ramp[:, None], (SIDE // 2, SIDE // 2))
    frame = picture(np.full((SIDE, SIDE), 110), cb, 128)
    colour = Colour(BT709, False, UNSPECIFIED, UNSPECIFIED)
    rgb = to_rgb(SIDE, SIDE, "yuv420p", colour, centred_chroma=centred)(frame)
    blue = rgb[..., 2].mean(axis=1 - axis)[90:170]
    at_128, at_129 = (rgb_of(110, value, 128, BT709, False)[2] for value in (128, 129))
    read = 128 + (blue - at_128) / (at_129 - at_128)  # cb at each luma position
    assert (2 * (read - 64) - np.arange(90, 170)).mean() == pytest.approx(-offset, abs=0.1)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 480, BT601), (720, 576, BT601), (704, 577, BT709), (1280, 544, BT709), (1920, 1080, BT709)],
)
def test_the_matrix_that_players_assume(width, height, expected):
    assert Colour(UNSPECIFIED, False, 2, 2).resolved(width, height) == Colour(expected, False, 2, 2)
    assert Colour(BT709, True, 1, 1).resolved(width, height) == Colour(BT709, True, 1, 1)
