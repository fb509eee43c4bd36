"""Real-ESRGAN's degradation: kernels against their equations, draws against their declared probabilities."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from esrgan_export.video_frame import ENCODERS
from esrgan_train.data import degradation, kernels
from esrgan_train.data.degradation import (
    DegradationOptions,
    StageOptions,
    degrade,
    draw_kernel,
    gaussian_noise,
    poisson_noise,
    sharpen,
)
from esrgan_train.data.degradation_options import VideoOptions

GENTLE = {
    "blur_probability": 0,
    "resize": {"up": 0, "down": 0, "keep": 1},
    "gaussian_noise_probability": 1,
    "gaussian_noise_sigma": (0, 0),
    "jpeg_quality": (100, 100),
}


def only(*, first=None, **everywhere):
    """Options of two stages that do nothing but what is named."""
    return DegradationOptions.model_validate(
        {"first": GENTLE | everywhere | (first or {}), "second": GENTLE | everywhere, "final_sinc_probability": 0}
    )


@pytest.fixture(scope="module")
def photo():
    """Smooth, colourful and with edges: 64x64."""
    noise = np.random.default_rng(5).normal(size=(64, 64, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    steps = np.indices((64, 64)).sum(axis=0)[..., None] // 16 % 2 * 40
    return (np.clip(90 + smooth / smooth.std() * 35, 0, 200) + steps).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def chi_square(counts, probabilities):
    """Pearson's statistic over its degrees of freedom: about 1 if the draws are what they are declared to be."""
    expected = sum(counts.values()) * np.array(list(probabilities.values()))
    observed = np.array([counts[name] for name in probabilities])
    assert sum(observed) == sum(counts.values()), f"something undeclared was drawn: {counts}"
    return ((observed - expected) ** 2 / expected).sum() / (len(expected) - 1)


sizes = st.sampled_from(range(7, 22, 2))
sigmas = st.floats(0.2, 3)


@given(sizes, sigmas, sigmas, st.floats(-np.pi, np.pi), st.floats(0.5, 4), st.sampled_from(["gaussian", "plateau"]))
def test_kernels_are_their_equations(size, sigma_x, sigma_y, rotation, beta, shape):
    """Evaluated pixel by pixel along the ellipse's own axes, without a covariance."""
    expected = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            x, y = column - size // 2, row - size // 2
            along = (x * np.cos(rotation) + y * np.sin(rotation)) / sigma_x
            across = (y * np.cos(rotation) - x * np.sin(rotation)) / sigma_y
            power = (along**2 + across**2) ** beta
            expected[row, column] = np.exp(-power / 2) if shape == "gaussian" else 1 / (1 + power)
    kernel = getattr(kernels, shape)(size, kernels.covariance(sigma_x, sigma_y, rotation), beta)
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-6, atol=1e-12)
    assert kernel.sum() == pytest.approx(1)


def test_the_second_moments_of_a_gaussian_are_its_covariance():
    covariance = kernels.covariance(4, 2, np.pi / 6)
    kernel = kernels.gaussian(61, covariance)
    y, x = np.mgrid[-30:31, -30:31]
    moments = [[(kernel * x * x).sum(), (kernel * x * y).sum()], [(kernel * x * y).sum(), (kernel * y * y).sum()]]
    np.testing.assert_allclose(moments, covariance, rtol=1e-4)
    # 4 px along 30 degrees, 2 px across: 16 cos^2 + 4 sin^2 = 13, and so on.
    np.testing.assert_allclose(covariance, [[13, 12 * np.sqrt(3) / 4], [12 * np.sqrt(3) / 4, 7]])


@pytest.mark.parametrize("cutoff", [np.pi / 5, np.pi / 3, 2.0])
def test_sinc_passes_below_its_cutoff_and_stops_above(cutoff):
    size = 201
    gain = np.abs(np.fft.fft2(np.fft.ifftshift(kernels.sinc(size, cutoff))))
    frequency = 2 * np.pi * np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    assert gain[frequency < cutoff - 0.1].mean() == pytest.approx(1, abs=0.05)
    assert gain[np.abs(frequency - (cutoff - 0.1)) < 0.02].mean() > 0.9
    assert gain[np.abs(frequency - cutoff) < 0.02].mean() == pytest.approx(0.5, abs=0.05)
    assert gain[np.abs(frequency - (cutoff + 0.1)) < 0.02].mean() < 0.1
    assert gain[frequency > cutoff + 0.1].mean() < 0.02


@given(sizes, st.floats(np.pi / 3, np.pi))
def test_sinc_sums_to_one_and_is_round(size, cutoff):
    kernel = kernels.sinc(size, cutoff)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.min() < 0, "a sinc rings"
    for turned in (kernel.T, kernel[::-1], kernel[:, ::-1]):
        np.testing.assert_allclose(kernel, turned, atol=1e-12)


def test_bessel_function_at_published_points():
    """Abramowitz and Stegun, tables 9.1 and 9.5: values at 1 and 10, and the first and thirteenth zero."""
    points = np.array([0.0, 1.0, 10.0, 3.8317059702, 41.6170942128])
    np.testing.assert_allclose(kernels.bessel_j1(points), [0, 0.4400505857, 0.0434727462, 0, 0], atol=1e-10)


def shape_of(kernel):
    """Recognise a kernel by its values alone."""
    if kernel.min() < 0:
        return "sinc"
    symmetry = "isotropic" if np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1]) else "anisotropic"
    profile = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2 :]
    one, two, three = np.log(profile[0] / profile[1:4])
    if abs(two / one - 4) < 1e-6:
        return symmetry
    exponent = np.log(two / one) / np.log(4)  # -log of a generalised Gaussian is proportional to |x|^(2 beta)
    return f"generalized_{symmetry}" if abs(three / one - 9**exponent) < 1e-6 else f"plateau_{symmetry}"


def test_kernels_are_drawn_as_declared():
    rng = np.random.default_rng(1)
    options = StageOptions(sigma=(2, 3))  # wide enough for the shape to be seen
    drawn = [draw_kernel(rng, options) for _ in range(4000)]
    shapes = {name: 0.9 * share for name, share in options.kernels} | {"sinc": 0.1}
    assert chi_square(Counter(map(shape_of, drawn)), shapes) < 2.5
    assert chi_square(Counter(len(kernel) for kernel in drawn), dict.fromkeys(range(7, 22, 2), 1 / 8)) < 2.5


def test_sigma_and_exponents_fill_their_ranges():
    rng = np.random.default_rng(2)
    options = {"sinc_probability": 0, "sigma": (1.0, 1.5), "generalized_beta": (0.5, 4.0)}
    kinds = dict.fromkeys(dict(StageOptions().kernels), 0.0)
    gaussian = StageOptions.model_validate(options | {"kernels": kinds | {"isotropic": 1}})
    profiles = [
        kernel[len(kernel) // 2, len(kernel) // 2 :] for kernel in (draw_kernel(rng, gaussian) for _ in range(600))
    ]
    found = np.array([1 / np.sqrt(2 * np.log(profile[0] / profile[1])) for profile in profiles])
    assert found.min() == pytest.approx(1.0, abs=0.01)
    assert found.max() == pytest.approx(1.5, abs=0.01)
    assert found.mean() == pytest.approx(1.25, abs=0.02)
    general = StageOptions.model_validate(options | {"kernels": kinds | {"generalized_isotropic": 1}})
    profiles = [
        kernel[len(kernel) // 2, len(kernel) // 2 :] for kernel in (draw_kernel(rng, general) for _ in range(600))
    ]
    found = np.array([np.log(np.log(p[0] / p[2]) / np.log(p[0] / p[1])) / np.log(4) for p in profiles if p[2] > 0])
    assert (found < 1).mean() == pytest.approx(0.5, abs=0.06)
    assert found.min() == pytest.approx(0.5, abs=0.01)
    assert 3.5 < found.max() <= 4.001


class Encodings(list):
    """(height, width, quality) of everything that was encoded as JPEG, first and second of each sample in turn."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.encode = cv2.imencode
        monkeypatch.setattr(cv2, "imencode", self)

    def __call__(self, suffix, pixels, parameters):
        self.append((*pixels.shape[:2], parameters[1]))
        return self.encode(suffix, pixels, parameters)


def test_resizes_and_jpeg_are_drawn_as_declared(monkeypatch, photo):
    encodings = Encodings(monkeypatch)
    for seed in range(800):
        degrade(photo, np.random.default_rng(seed), DegradationOptions(), 1)
    first, second = np.array(encodings[0::2]), np.array(encodings[1::2])
    factors = first[:, 0] / 64
    ways = Counter("up" if factor > 1 else "down" if factor < 1 else "keep" for factor in factors)
    # A factor of up to 1 + 1/64 enlarges nothing.
    assert chi_square(ways, {"up": 0.2 * 31 / 32, "down": 0.7, "keep": 0.1 + 0.2 / 32}) < 3
    assert factors.min() == pytest.approx(0.15, abs=0.02)
    assert factors.max() == pytest.approx(1.5, abs=0.02)
    # Half of the last JPEGs come after the resize to the final size; of the others, 30 % were kept or not yet enlarged.
    assert (second[:, 0] == 64).mean() == pytest.approx(0.5 + 0.5 * (0.3 + 0.3 / 12.8), abs=0.05)
    assert second[:, 0].min() / 64 == pytest.approx(0.3, abs=0.02)
    assert second[:, 0].max() / 64 == pytest.approx(1.2, abs=0.02)
    for quality in (first[:, 2], second[:, 2]):
        assert (quality.min(), quality.max()) == (30, 95)
        assert chi_square(Counter(quality), dict.fromkeys(range(30, 96), 1 / 66)) < 1.5


def test_jpeg_comes_before_the_final_resize_half_of_the_time(monkeypatch, photo):
    encodings = Encodings(monkeypatch)
    options = only(resize={"up": 0, "down": 1, "keep": 0}, resize_range=(0.3, 1))
    for seed in range(1000):
        degrade(photo[:32, :32], np.random.default_rng(seed), options, 1)
    assert (np.array(encodings[1::2])[:, 0] < 32).mean() == pytest.approx(0.5, abs=0.04)


def test_all_three_resize_filters_are_drawn_equally_often(monkeypatch, photo):
    drawn = []
    resize = cv2.resize

    def spy(image, size, interpolation):
        drawn.append(interpolation)
        return resize(image, size, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    for seed in range(400):
        degrade(photo[:16, :16], np.random.default_rng(seed), DegradationOptions(), 4)
    assert len(drawn) > 400
    assert chi_square(Counter(drawn), dict.fromkeys([cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC], 1 / 3)) < 4


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_the_declared_sigma(grey):
    noise = gaussian_noise(np.zeros((200, 200, 3), np.float32), np.random.default_rng(0), 25, grey)
    assert noise.shape == (200, 200, 1 if grey else 3)
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    assert noise.mean() * 255 == pytest.approx(0, abs=0.5)
    if not grey:
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_poisson_noise_has_a_variance_proportional_to_brightness(grey, scale):
    """256 levels in use: 256 photons at white, so the variance is brightness / 256."""
    ramp = np.repeat(np.arange(256) / 255, 400).reshape(256, 400)
    image = np.dstack([ramp] * 3).astype(np.float32)
    noise = poisson_noise(image, np.random.default_rng(0), scale, grey)
    assert noise.shape == (256, 400, 1 if grey else 3)
    variance = noise.astype(np.float64).var(axis=(1, 2))
    assert variance[0] == 0
    for level in (16, 64, 128, 255):
        near = slice(max(1, level - 8), level + 8)
        expected = np.mean(ramp[near, 0]) / 256 * scale**2
        assert variance[near].mean() == pytest.approx(expected, rel=0.06)
    assert noise.mean() == pytest.approx(0, abs=1e-3)


def test_fewer_levels_mean_fewer_photons():
    image = np.full((300, 300, 3), 51 / 255, np.float32)
    image[:100] = 102 / 255
    image[:50] = 153 / 255  # three levels: four photons
    noise = poisson_noise(image, np.random.default_rng(0), 1.0, False)[100:]
    assert noise.var() == pytest.approx(0.2 / 4, rel=0.03)


def test_noise_kinds_are_drawn_as_declared():
    """On flat grey: one level in use means one photon, so Poisson noise is coarse; grey noise leaves no colour."""
    flat = np.full((24, 24, 3), 128, np.uint8)
    options = only(first={"gaussian_noise_probability": 0.5, "gaussian_noise_sigma": (12, 12)})
    kinds = Counter()
    for seed in range(500):
        lr = degrade(flat, np.random.default_rng(seed), options, 1).astype(int)
        colour = np.abs(lr - lr.mean(axis=2, keepdims=True)).mean()
        kinds["gaussian" if lr.std() < 20 else "poisson", "grey" if colour < 1 else "colour"] += 1
    declared = {
        (kind, colour): 0.5 * p for kind in ("gaussian", "poisson") for colour, p in (("grey", 0.4), ("colour", 0.6))
    }
    assert chi_square(kinds, declared) < 3


def test_a_sample_is_a_pure_function_of_its_seed(photo):
    options = DegradationOptions()
    before = photo.copy()
    np.random.seed(0)
    first = degrade(photo, np.random.default_rng(11), options, 4)
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(first, degrade(photo, np.random.default_rng(11), options, 4))
    assert (state == np.random.get_state()[1]).all()
    assert (first != degrade(photo, np.random.default_rng(12), options, 4)).any()
    np.testing.assert_array_equal(photo, before)


def test_float_and_integer_input_agree(photo):
    as_float = photo.astype(np.float32) / 255
    for seed in range(5):
        a, b = (degrade(hr, np.random.default_rng(seed), DegradationOptions(), 4) for hr in (photo, as_float))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("height", "width", "scale"), [(4, 4, 4), (4, 132, 4), (60, 8, 4), (9, 33, 3), (17, 31, 1)])
def test_the_result_has_the_promised_size_and_type(height, width, scale):
    hr = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for seed in range(30):
        lr = degrade(hr, np.random.default_rng(seed), DegradationOptions(), scale)
        assert lr.shape == (height // scale, width // scale, 3)
        assert lr.dtype == np.uint8


def test_a_size_that_scale_does_not_divide_is_refused(photo):
    with pytest.raises(ValueError, match="62x64 cannot be divided by 4"):
        degrade(photo[:, :62], np.random.default_rng(0), DegradationOptions(), 4)


def test_with_everything_off_the_picture_comes_back(photo):
    lr = degrade(photo, np.random.default_rng(0), only(), 1)
    assert psnr(lr, photo) > 36  # what is left is JPEG's halved chroma, twice
    assert np.abs(lr.mean(axis=(0, 1)) - photo.mean(axis=(0, 1))).max() < 1, "a swapped channel would differ"


def test_jpeg_is_given_red_as_red():
    """Exchanged with blue, the picture would still come back red; but luma, which survives, is 0.299 of red."""
    stripes = np.full((16, 16, 3), 128, np.uint8)
    stripes[:, ::2, 0] += 60
    stripes[:, 1::2, 0] -= 60
    lr = degrade(stripes, np.random.default_rng(0), only(), 1).astype(float)
    # JPEG averages chroma over two columns, so what is left between neighbours is the difference in luma: 36, not 14.
    np.testing.assert_allclose((lr[:, ::2] - lr[:, 1::2]).mean(axis=(0, 1)), 0.299 * 120, atol=3)


@pytest.mark.parametrize(
    "steps",
    [
        [{"gaussian_noise_sigma": (sigma, sigma)} for sigma in (2, 8, 30)],
        [{"gaussian_noise_probability": 0, "poisson_noise_scale": (scale, scale)} for scale in (0.05, 0.5, 3)],
        [{"jpeg_quality": (quality, quality)} for quality in (95, 60, 30)],
        [{"blur_probability": 1, "sinc_probability": 0, "sigma": (sigma, sigma)} for sigma in (0.5, 1.2, 3)],
        [{"resize": {"up": 0, "down": 1, "keep": 0}, "resize_range": (low, 1)} for low in (0.8, 0.4, 0.15)],
    ],
    ids=["gaussian", "poisson", "jpeg", "blur", "resize"],
)
def test_stronger_degradation_loses_more(photo, steps):
    losses = [
        np.mean([psnr(degrade(photo, np.random.default_rng(seed), only(**step), 1), photo) for seed in range(8)])
        for step in steps
    ]
    assert losses[0] > losses[1] + 1 > losses[2] + 2


def test_sharpening_is_its_equation():
    """Dense evaluation: a Gaussian of 8 px (OpenCV's rule for 51 px: 0.3 * ((51 - 1) / 2 - 1) + 0.8), mirrored."""
    hr = np.random.default_rng(3).integers(90, 130, (40, 70, 3)).astype(np.uint8)
    hr[:, 35:] += 60
    kernel = np.exp(-0.5 * (np.arange(-25, 26) / 8) ** 2)
    kernel /= kernel.sum()

    def blur(image):
        padded = np.pad(image, ((25, 25), (25, 25), (0, 0)), mode="reflect")
        rows = sum(weight * padded[at : at + 40] for at, weight in enumerate(kernel))
        return sum(weight * rows[:, at : at + 70] for at, weight in enumerate(kernel))

    image = hr.astype(float)
    detail = image - blur(image)
    mask = blur((np.abs(detail) > 10).astype(float))
    expected = mask * np.clip(image + detail / 2, 0, 255) + (1 - mask) * image
    np.testing.assert_allclose(sharpen(hr), expected, atol=0.51)
    assert (sharpen(hr) != hr).mean() > 0.5


def test_flat_areas_are_not_sharpened():
    flat = np.full((32, 32, 3), 77, np.uint8)
    flat[8, 8] += 9  # below the threshold
    np.testing.assert_array_equal(sharpen(flat), flat)


def test_defaults_are_those_of_realesrgan_x4plus():
    """In the names and order of its yml: two rounds, then what the code of its data set and model hard-codes."""
    options = DegradationOptions()
    first, second = options.first, options.second
    yml = {
        "resize_prob": [list(dict(stage.resize).values()) for stage in (first, second)],
        "resize_range": [stage.resize_range for stage in (first, second)],
        "gaussian_noise_prob": [stage.gaussian_noise_probability for stage in (first, second)],
        "noise_range": [stage.gaussian_noise_sigma for stage in (first, second)],
        "poisson_scale_range": [stage.poisson_noise_scale for stage in (first, second)],
        "gray_noise_prob": [stage.grey_noise_probability for stage in (first, second)],
        "jpeg_range": [stage.jpeg_quality for stage in (first, second)],
        "second_blur_prob": [first.blur_probability, second.blur_probability],
        "kernel_prob": [list(dict(stage.kernels).values()) for stage in (first, second)],
        "sinc_prob": [stage.sinc_probability for stage in (first, second)],
        "blur_sigma": [stage.sigma for stage in (first, second)],
        "betag_range": [stage.generalized_beta for stage in (first, second)],
        "betap_range": [stage.plateau_beta for stage in (first, second)],
        "final_sinc_prob": options.final_sinc_probability,
    }
    mixture = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
    assert yml == {
        "resize_prob": [[0.2, 0.7, 0.1], [0.3, 0.4, 0.3]],
        "resize_range": [(0.15, 1.5), (0.3, 1.2)],
        "gaussian_noise_prob": [0.5, 0.5],
        "noise_range": [(1, 30), (1, 25)],
        "poisson_scale_range": [(0.05, 3), (0.05, 2.5)],
        "gray_noise_prob": [0.4, 0.4],
        "jpeg_range": [(30, 95), (30, 95)],
        "second_blur_prob": [1, 0.8],
        "kernel_prob": [mixture, mixture],
        "sinc_prob": [0.1, 0.1],
        "blur_sigma": [(0.2, 3), (0.2, 1.5)],
        "betag_range": [(0.5, 4), (0.5, 4)],
        "betap_range": [(1, 2), (1, 2)],
        "final_sinc_prob": 0.8,
    }


def test_options_survive_json_and_keep_the_second_rounds_defaults():
    options = DegradationOptions.model_validate({"second": {"jpeg_quality": [50, 90]}})
    assert options.second.sigma == (0.2, 1.5)
    assert options.second.resize_range == (0.3, 1.2)
    assert DegradationOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("given_options", "reason"),
    [
        ({"first": {"sigmas": [1, 2]}}, "sigmas"),
        ({"first": {"sigma": [3, 1]}}, r"3\.0 is above 1\.0"),
        ({"first": {"sigma": [0, 1]}}, "greater than 0"),
        ({"first": {"jpeg_quality": [30, 101]}}, "less than or equal to 100"),
        ({"first": {"resize_range": [1.2, 2]}}, "must contain 1"),
        ({"first": {"plateau_beta": [1.5, 2]}}, "must contain 1"),
        ({"second": {"resize": {"up": 0.5}}}, r"up, down, keep sum to 1\.3"),
        ({"final_sinc_probability": 1.5}, "less than or equal to 1"),
        ({"first": {"gaussian_noise_sigma": [0, float("inf")]}}, "finite"),
    ],
)
def test_options_that_cannot_be_right_are_refused(given_options, reason):
    with pytest.raises(ValidationError, match=reason):
        DegradationOptions.model_validate(given_options)


def test_video_replaces_the_last_jpeg_as_declared(monkeypatch, photo):
    clips = []

    def spy(frames, codec, quality):
        clips.append((codec, quality, len(frames)))
        np.testing.assert_array_equal(frames[-1].shape, frames[0].shape)
        return list(frames)

    monkeypatch.setattr(degradation, "through_codec", spy)
    encodings = Encodings(monkeypatch)
    options = DegradationOptions(video=VideoOptions(probability=0.75, frames=(1, 3)))
    for seed in range(800):
        degrade(photo[:32, :32], np.random.default_rng(seed), options, 1)
    assert len(encodings) == 1600 - len(clips)
    assert len(clips) / 800 == pytest.approx(0.75, abs=0.05)
    assert chi_square(Counter(codec for codec, _, _ in clips), dict(options.video.codecs)) < 3
    assert chi_square(Counter(count for _, _, count in clips), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}) < 4
    for codec in ENCODERS:
        qualities = [quality for found, quality, _ in clips if found == codec]
        assert (min(qualities), max(qualities)) == options.video.quality(codec)


def test_a_clip_moves_and_ends_at_the_picture(monkeypatch):
    """A dot goes the same way from frame to frame, and the last frame is the picture."""
    seen = []
    monkeypatch.setattr(degradation, "through_codec", lambda frames, *_: seen.append(frames) or list(frames))
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[22:26, 22:26] = 250
    options = only().model_copy(update={"video": VideoOptions(probability=1, frames=(3, 3))})
    for seed in range(10):
        lr = degrade(picture, np.random.default_rng(seed), options, 1)
        np.testing.assert_array_equal(lr, seen[-1][-1])
        grid = np.indices((48, 48))
        places = [(grid * frame[..., 1]).sum(axis=(1, 2)) / frame[..., 1].sum() for frame in seen[-1]]
        np.testing.assert_allclose(places[1] - places[0], places[2] - places[1], atol=0.4)
        assert np.abs(places[1] - places[0]).max() < 3.2
    assert any(not np.array_equal(frames[0], frames[-1]) for frames in seen)
