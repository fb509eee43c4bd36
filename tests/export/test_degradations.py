"""LR as people have it: pictures computed by others, golden bytes, and codecs that lose what they should."""

import hashlib
import io

import cv2
import numpy as np
import pytest

from esrgan_deploy.errors import OptionError
from esrgan_export.evaluation.degradations import DEGRADATIONS, degradation, jpeg, soft_and_noisy
from esrgan_export.video_frame import ENCODERS, through_codec


def plasma(height, width):
    """Smooth, colourful and with edges, in integers alone: the same on every machine."""
    y, x = np.indices((height, width))
    planes = [
        (x * x * a // 97 + y * y * b // 89 + x * y * c // 101) % 448 for a, b, c in ((1, 2, 1), (2, 1, 1), (1, 1, 2))
    ]
    folded = np.abs(np.stack(planes, axis=2) - 224)
    return (folded * 3 // 4 + (x // 12 + y // 12)[..., None] % 2 * 60).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def by_pillow(picture, quality):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(image.open(file))


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (5, 6)])
def test_jpeg_is_the_one_that_pillow_makes(size):
    np.testing.assert_array_equal(DEGRADATIONS["jpeg60"].apply(plasma(*size), 0), by_pillow(plasma(*size), 60))


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (5, 6), (4, 4)])
def test_noise_is_what_scipy_numpy_and_pillow_make(size):
    gaussian_filter = pytest.importorskip("scipy.ndimage").gaussian_filter
    picture = plasma(*size)
    soft = gaussian_filter(picture.astype(float), (0.8, 0.8, 0), radius=(3, 3, 0), mode="mirror")
    grain = 6 * np.random.default_rng(7).standard_normal(picture.shape)
    expected = np.rint(soft + grain).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(soft_and_noisy(picture, 7), expected)
    np.testing.assert_array_equal(DEGRADATIONS["noisy"].apply(picture, 7), by_pillow(expected, 75))


def test_clean_is_the_picture_itself():
    picture = plasma(20, 30)
    np.testing.assert_array_equal(DEGRADATIONS["clean"].apply(picture, 0), plasma(20, 30))


def test_bytes_are_those_of_the_day_on_which_figures_were_measured():
    """What the two tests above compute with Pillow and SciPy, as hashes: new versions must not change figures."""
    picture = plasma(72, 96)
    made = {kind: DEGRADATIONS[kind].apply(picture, 0) for kind in ("jpeg60", "noisy")}
    assert {kind: hashlib.sha256(lr.tobytes()).hexdigest()[:16] for kind, lr in made.items()} == {
        "jpeg60": "10baa2097f18d5ff",
        "noisy": "df89bf682a07c078",
    }


def test_the_seed_decides_the_noise_and_nothing_else():
    picture = plasma(40, 40)
    for kind, damage in DEGRADATIONS.items():
        first, again, other = (damage.apply(picture, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first == other).all() == (kind != "noisy")
        assert (first.shape, first.dtype) == (picture.shape, np.uint8)


def test_a_picture_is_left_as_it_was():
    picture = plasma(40, 40)
    for damage in DEGRADATIONS.values():
        damage.apply(picture, 0)
        np.testing.assert_array_equal(picture, plasma(40, 40))


@pytest.mark.parametrize(("kind", "codec", "quality"), [("mpeg4", "mpeg4", 6), ("h264", "h264", 30)])
def test_a_codec_loses_as_much_as_its_quality_says(kind, codec, quality):
    """Between one step better and one step worse of the same codec; the band holds for any picture like this one."""
    picture = cv2.GaussianBlur(plasma(96, 128), (0, 0), 1.5)
    found = DEGRADATIONS[kind].apply(picture, 0)
    better, worse = (through_codec([picture], codec, quality + step)[0] for step in (-2, 2))
    assert psnr(better, picture) > psnr(found, picture) > psnr(worse, picture)
    assert 25 < psnr(found, picture) < 38


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(OptionError, match=r"^no degradation 'jpg60'; did you mean 'jpeg60'\? Known: clean, jpeg60,"):
        degradation("jpg60")
    assert degradation("h264").name == "h264"


def test_jpeg_has_half_the_colour_resolution():
    """Red and blue columns in turn become one colour; with 4:4:4 they would not."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    red, blue = jpeg(stripes, 95)[8:24, 8:24].astype(int)[..., [0, 2]].mean(axis=0).T
    assert np.abs(red - blue).max() < 120


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_codec_keeps_the_picture_and_loses_more_at_lower_quality(codec):
    good, bad = (4, 24) if codec == "mpeg4" else (15, 45)
    grey = np.repeat(plasma(64, 64).mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)  # no loss by 4:2:0
    scores = [psnr(grey, through_codec([grey] * 3, codec, quality)[-1]) for quality in (good, bad)]
    assert scores[0] > 34
    assert 20 < scores[1] < scores[0] - 4


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_codec_takes_any_size_and_gives_every_frame_back_in_order(codec):
    """Sizes that are no whole blocks made libraries write beyond the end of their memory."""
    for height, width in ((1, 1), (7, 33), (63, 65), (90, 17)):
        clip = [np.full((height, width, 3), level, np.uint8) for level in (40, 100, 160, 220)]
        decoded = through_codec(clip, codec, 8)
        assert [frame.shape for frame in decoded] == [(height, width, 3)] * 4
        assert [round(float(frame.mean()) / 60 - 2 / 3) for frame in decoded] == [0, 1, 2, 3]
