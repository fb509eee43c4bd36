"""MATLAB's bicubic, against MATLAB's own results, its definition written out, BasicSR and Pillow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from esrgan_export.bicubic import downscale, imresize, mod_crop, taps, to_uint8, upscale

# Results of MATLAB's imresize on a uint8 array, as the image package of GNU Octave records them for its own test.
MATLAB_INPUT = """
    116 227 153  69 146 194  59 130 139 106
      2  47 137 249  90  75  16  24 158  44
    155  68  46  84 166 156  69 204  32 152
     71 221 137 230 210 153 192 115  30 118
    107 143 108  52  51  73 101  21 175  90
     54 158 143  77  26 168 113 229 165 225
      9  47 133 135 130 207 236  43  19  73
    129  60  59 243  64 181 249  56  32  86"""
MATLAB_OUTPUT = {
    1 / 2: """
        105 140 126  81 109
        110 134 153 114  93
        108 108  94 127 146
         67 126 162 149  62""",
    1 / 3: """
        115 135  97 101
        113 119 124 125
         81 157 118  64""",
    4 / 3: """
        116 203 221 141  62 110 180 191  70 104 143 136 111 106
         26  78 126 156 200 139 103 103  33  28  92 158  67  46
         51  35  51 112 195 146 101  87  29  57 100 114  81  74
        159 110  63  50  82 148 179 152  83 173 147  27 143 170
         70 171 189 134 217 226 193 158 186 157  83  25 114 135
         91 152 162 116 118 114 102  98 138  65  60 127  92  84
         90 130 144 111  52  24  50 101  94  86 129 190 146 135
         41 114 157 139  89  37  82 178 125 192 203 154 213 227
          4  33  89 141 127 118 151 213 232 119  35  34  81  92
         88  61  54  97 203 129 115 203 255 119  18  24  70  81
        147  91  43  68 247 125  80 191 255 130  33  37  83  94""",
}


def table(text):
    return np.array([line.split() for line in text.strip().splitlines()], np.uint8)


def imresize_by_definition(image, scale):
    """One output pixel at a time, every input pixel weighted, mirrored copies of the image laid beside it."""

    def kernel(distance):
        x = abs(distance) * min(1, scale)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0

    def resize_line(line):
        copies = 1 + int(np.ceil(3 / scale / len(line)))
        block = np.concatenate([line, line[::-1]])
        mirrored = np.concatenate([block] * (2 * copies + 1))
        result = []
        for number in range(1, int(np.ceil(len(line) * scale)) + 1):
            centre = number / scale + 0.5 * (1 - 1 / scale)  # MATLAB counts from 1
            weights = [kernel(centre - (at - copies * len(block) + 1)) for at in range(len(mirrored))]
            result.append(np.dot(weights, mirrored) / np.sum(weights))
        return np.array(result)

    columns = np.stack([resize_line(column) for column in image.T], axis=1)
    return np.stack([resize_line(row) for row in columns])


@pytest.mark.parametrize("scale", MATLAB_OUTPUT)
def test_matlabs_own_results(scale):
    """On uint8 MATLAB rounds after the rows as well; done the same way here, every value is equal."""

    def resize_first_axis(image):
        rows, weights = taps(len(image), scale)
        return to_uint8((image[rows] * weights[..., None]).sum(axis=1))

    image, expected = table(MATLAB_INPUT), table(MATLAB_OUTPUT[scale])
    np.testing.assert_array_equal(resize_first_axis(resize_first_axis(image).T).T, expected)
    # Rounded once, as scripts for benchmarks do it (im2double before imresize), a few values differ by one.
    assert np.abs(to_uint8(imresize(image, scale)).astype(int) - expected).max() <= 1


def test_matlabs_result_in_floating_point():
    """imresize([10; 6], 1.5) in MATLAB, recorded with all its digits."""
    np.testing.assert_allclose(imresize(np.array([[10.0], [6.0]]), 1.5)[:, 0], [10.27777777777777, 8, 5.72222222222222])


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((12, 16), 1 / 4), ((7, 5), 4), ((9, 8), 1 / 3), ((6, 6), 2), ((10, 11), 0.37), ((8, 9), 1.3), ((3, 4), 1 / 4)],
)
def test_the_definition(shape, scale):
    image = np.random.default_rng(0).uniform(0, 255, shape)
    np.testing.assert_allclose(imresize(image, scale), imresize_by_definition(image, scale), atol=1e-9)


def test_basicsr_gives_the_same():
    """Values of BasicSR 1.4.2, utils/matlab_functions.imresize, for ramps that wrap around."""
    image = (np.arange(12 * 16).reshape(12, 16) * 7919 % 256).astype(np.uint8)
    quarter = [
        [191.2121, 142.4880, 62.1759, 100.2490],
        [146.7159, 64.5359, 108.0508, 196.5724],
        [71.7816, 113.1573, 200.5608, 128.5004],
    ]
    np.testing.assert_allclose(imresize(image, 1 / 4), quarter, atol=2e-4)
    first_rows = [
        [-47.1563, 31.3203, 188.2735, 255.9375, 234.3125, 218.8515, 209.5547, 204.9063],
        [31.5938, 87.5078, 199.3359, 246.2188, 228.1563, 214.4766, 205.1797, 200.5312],
    ]
    np.testing.assert_allclose(imresize(image[:3, :4], 2)[:2], first_rows, atol=2e-4)


@pytest.mark.parametrize(("factor", "shrink"), [(2, True), (4, True), (3, True), (2, False), (4, False)])
def test_pillow_agrees_away_from_the_border(factor, shrink):
    """Pillow has the same kernel, but drops what lies beyond the border instead of mirroring it."""
    image = np.random.default_rng(1).random((48, 72), dtype=np.float32)
    height, width = (length // factor if shrink else length * factor for length in image.shape)
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    margin = 2 if shrink else 2 * factor
    inside = (slice(margin, -margin), slice(margin, -margin))
    ours = imresize(image, 1 / factor if shrink else factor)
    np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-5)
    assert np.abs(ours - expected).max() > 1e-2, "the borders differ, or this test does not see them"


@given(st.integers(0, 255), st.sampled_from([2, 3, 4]), st.integers(1, 9), st.integers(1, 9))
def test_a_constant_stays_constant(value, factor, rows, columns):
    hr = np.full((rows * factor, columns * factor, 3), value, np.uint8)
    np.testing.assert_array_equal(downscale(hr, factor), hr[:rows, :columns])
    np.testing.assert_array_equal(upscale(hr, factor), np.full((rows * factor**2, columns * factor**2, 3), value))


pictures = arrays(np.uint8, (32, 40, 3), elements=st.integers(0, 255))


@given(pictures, st.integers(0, 3), st.integers(0, 4))
def test_a_crop_with_a_margin_is_downscaled_like_the_whole(hr, top, left):
    """Two LR pixels of margin, since the widened kernel reaches two LR pixels."""
    whole = imresize(hr, 1 / 4)
    crop = imresize(hr[4 * top : 4 * top + 20, 4 * left : 4 * left + 24], 1 / 4)
    np.testing.assert_allclose(crop[2:-2, 2:-2], whole[top + 2 : top + 3, left + 2 : left + 4], atol=1e-9)


@given(pictures, st.sampled_from([1 / 4, 1 / 2, 2]))
def test_mirroring_and_transposing_commute_with_resizing(hr, scale):
    resized = imresize(hr, scale)
    np.testing.assert_allclose(imresize(hr[:, ::-1], scale), resized[:, ::-1], atol=1e-9)
    np.testing.assert_allclose(imresize(hr[::-1], scale), resized[::-1], atol=1e-9)
    np.testing.assert_allclose(imresize(hr.swapaxes(0, 1), scale), resized.swapaxes(0, 1), atol=1e-9)


def test_grey_and_colour_give_the_same():
    image = np.random.default_rng(2).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(imresize(image, 1 / 4)[..., channel], imresize(image[..., channel], 1 / 4))


def test_halves_round_up_and_overshoot_is_clipped():
    values = np.array([[0.5, 1.5, 2.5, 0.49], [-3, 255.4, 255.6, 300]])
    np.testing.assert_array_equal(to_uint8(values), [[1, 2, 3, 0], [0, 255, 255, 255]])
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 8:] = 255
    assert imresize(edge, 1 / 2).min() < 0
    assert imresize(edge, 1 / 2).max() > 255
    assert (np.diff(downscale(edge, 2)[:, :, 0].astype(int), axis=1) >= 0).all(), "something wraps around"


@pytest.mark.parametrize("shape", [(16, 18), (18, 16), (3, 4)])
def test_a_size_that_the_factor_does_not_divide_is_refused(shape):
    hr = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{shape[1]}x{shape[0]} cannot be divided by 4"):
        downscale(hr, 4)


def test_mod_crop_keeps_the_upper_left():
    hr = np.arange(7 * 9 * 3).reshape(7, 9, 3).astype(np.uint8)
    np.testing.assert_array_equal(mod_crop(hr, 4), hr[:4, :8])
    assert mod_crop(hr[:4, :8], 4).shape == (4, 8, 3)
