"""Real-ESRGAN's second-order degradation: an LR picture as it comes off the internet, from a clean HR one.

Source: Wang et al., Real-ESRGAN (arXiv 2107.10833), section 3, and the official configuration RealESRGAN_x4plus, whose
values are the defaults here. Twice in a row: blur, resize, noise, JPEG; then a sinc filter, before or after the last
JPEG. JPEG is a real encoder's here; the official code approximates one on the GPU.
"""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from esrgan_train.data import kernels

Image = npt.NDArray[np.float32]
"""(H, W, 3) RGB; 0 is black and 1 is white, but a filter may overshoot."""

KERNEL_SIZES = range(7, 22, 2)
RESIZE_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_WIDE_KERNEL = 13  # from this size on, a sinc kernel is wide enough to show a cutoff below pi / 3
_SHARPEN_WINDOW, _SHARPEN_WEIGHT, _SHARPEN_THRESHOLD = 51, 0.5, 10


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} is above {limits[1]}; write the smaller one first")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
Quality = Annotated[int, Field(ge=1, le=100)]
QualityRange = Annotated[tuple[Quality, Quality], AfterValidator(_ordered)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Mixture(_Options):
    """Probabilities of things that exclude each other."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        weights = self.model_dump()
        if abs(sum(weights.values()) - 1) > 1e-6:
            raise ValueError(f"{', '.join(weights)} sum to {sum(weights.values()):g}; make it 1")
        return self

    def draw(self, rng: np.random.Generator) -> str:
        """Name of one of the fields, each as often as its value says."""
        weights = self.model_dump()
        return str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))


class KernelMixture(_Mixture):
    """How often a blur kernel has which shape; sums to 1."""

    isotropic: Probability = 0.45
    anisotropic: Probability = 0.25
    generalized_isotropic: Probability = 0.12
    generalized_anisotropic: Probability = 0.03
    plateau_isotropic: Probability = 0.12
    plateau_anisotropic: Probability = 0.03


class ResizeMixture(_Mixture):
    """How often a resize enlarges, shrinks, or does nothing; sums to 1."""

    up: Probability = 0.2
    down: Probability = 0.7
    keep: Probability = 0.1


class StageOptions(_Options):
    """One round of blur, resize, noise and JPEG; the defaults are those of the first."""

    blur_probability: Probability = 1.0
    """How often there is a blur at all."""
    sinc_probability: Probability = 0.1
    """How often the blur is a sinc filter, and not from `kernels`."""
    kernels: KernelMixture = KernelMixture()
    sigma: PositiveRange = (0.2, 3.0)
    """Standard deviation of a kernel, px; drawn for each axis where it is anisotropic."""
    generalized_beta: PositiveRange = (0.5, 4.0)
    """Exponent of a generalised Gaussian; half of the draws are below 1, half above."""
    plateau_beta: PositiveRange = (1.0, 2.0)
    """Exponent of a plateau kernel; half of the draws are below 1 (with the default: exactly 1), half above."""
    resize: ResizeMixture = ResizeMixture()
    resize_range: PositiveRange = (0.15, 1.5)
    """Factors of the strongest shrinking and enlarging; the second round's are relative to the LR size."""
    gaussian_noise_probability: Probability = 0.5
    """How often the noise is Gaussian; otherwise it is Poisson noise."""
    gaussian_noise_sigma: Range = (1.0, 30.0)
    """Standard deviation, 8-bit code values."""
    poisson_noise_scale: Range = (0.05, 3.0)
    """Factor on the Poisson noise; 1 is shot noise with as many photons as the picture has grey levels."""
    grey_noise_probability: Probability = 0.4
    """How often the noise is the same in the three channels."""
    jpeg_quality: QualityRange = (30, 95)

    @model_validator(mode="after")
    def _ranges_contain_one(self) -> Self:
        if not self.resize_range[0] <= 1 <= self.resize_range[1]:
            raise ValueError(
                f"resize_range {list(self.resize_range)} must contain 1; it shrinks below and enlarges above"
            )
        for name in ("generalized_beta", "plateau_beta"):
            if not getattr(self, name)[0] <= 1 <= getattr(self, name)[1]:
                raise ValueError(f"{name} {list(getattr(self, name))} must contain 1; half of the draws are below it")
        return self


class SecondStageOptions(StageOptions):
    """The second round: weaker. A class of its own, so that setting one field leaves the second round's others."""

    blur_probability: Probability = 0.8
    sigma: PositiveRange = (0.2, 1.5)
    resize: ResizeMixture = ResizeMixture(up=0.3, down=0.4, keep=0.3)
    resize_range: PositiveRange = (0.3, 1.2)
    gaussian_noise_sigma: Range = (1.0, 25.0)
    poisson_noise_scale: Range = (0.05, 2.5)


class DegradationOptions(_Options):
    """Real-ESRGAN's second-order degradation; the defaults are RealESRGAN_x4plus."""

    first: StageOptions = StageOptions()
    second: SecondStageOptions = SecondStageOptions()
    final_sinc_probability: Probability = 0.8
    """How often there is a sinc filter at the end."""
    sharpen_target: bool = True
    """HR crops go through `sharpen` first, so that the network learns to sharpen a little as well."""


def degrade(
    hr: npt.NDArray[np.uint8] | Image, rng: np.random.Generator, options: DegradationOptions, scale: int
) -> npt.NDArray[np.uint8]:
    """Make an LR picture of `hr`. A pure function of its arguments and the state of `rng`.

    Borders are mirrored, which a kernel of 21 px makes visible: degrade more than the patch and crop afterwards, as the
    official code does (400 px, then 256).

    Args:
        hr: (H, W, 3) RGB, uint8 or float32 in [0, 1]; H and W multiples of `scale`.
        rng: all randomness comes from it.
        options: probabilities and ranges.
        scale: how many times smaller the result is.

    Returns:
        uint8 (H / scale, W / scale, 3).

    Raises:
        ValueError: H or W is not a multiple of `scale`; the LR grid would be shifted against HR.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"{width}x{height} cannot be divided by {scale}; crop it first")
    target = (height // scale, width // scale)
    image: Image = hr.astype(np.float32) / np.float32(255) if hr.dtype == np.uint8 else hr.astype(np.float32)
    image = _blur(image, rng, options.first)
    image = _resize(image, rng, _drawn_size((height, width), rng, options.first))
    image = _add_noise(image, rng, options.first)
    image = _jpeg(image, rng, options.first)
    image = _blur(image, rng, options.second)
    image = _resize(image, rng, _drawn_size(target, rng, options.second))
    image = _add_noise(image, rng, options.second)
    # Other orders of the three (JPEG before the resize but after the sinc) make twisted lines, the authors say.
    if rng.random() < 0.5:
        image = _final_sinc(_resize(image, rng, target), rng, options)
        image = _jpeg(image, rng, options.second)
    else:
        image = _jpeg(image, rng, options.second)
        image = _final_sinc(_resize(image, rng, target), rng, options)
    return _to_uint8(image)


def sharpen(hr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Unsharp masking of the target, which Real-ESRGAN trains on: uint8 (H, W, 3) in and out.

    Half of what a Gaussian of 8 px (51 px wide) removes is added again, where that is more than 10 code values; the
    mask of those places is itself blurred.
    """
    window = (_SHARPEN_WINDOW, _SHARPEN_WINDOW)
    image = hr.astype(np.float32)
    detail = image - cv2.GaussianBlur(image, window, 0)
    mask = cv2.GaussianBlur((np.abs(detail) > _SHARPEN_THRESHOLD).astype(np.float32), window, 0)
    sharp = (image + _SHARPEN_WEIGHT * detail).clip(0, 255)
    return _to_uint8((mask * sharp + (1 - mask) * image) / 255)


def draw_kernel(rng: np.random.Generator, options: StageOptions) -> kernels.Kernel:
    """A blur kernel (size, size), of a random size in `KERNEL_SIZES`."""
    size = _draw_kernel_size(rng)
    if rng.random() < options.sinc_probability:
        return kernels.sinc(size, rng.uniform(np.pi / (3 if size < _WIDE_KERNEL else 5), np.pi))
    shape = options.kernels.draw(rng)
    sigma_x = sigma_y = rng.uniform(*options.sigma)
    rotation = 0.0
    if shape.endswith("anisotropic"):
        sigma_y = rng.uniform(*options.sigma)
        rotation = rng.uniform(-np.pi, np.pi)
    covariance = kernels.covariance(sigma_x, sigma_y, rotation)
    if shape.startswith("generalized"):
        return kernels.gaussian(size, covariance, _draw_around_one(rng, options.generalized_beta))
    if shape.startswith("plateau"):
        return kernels.plateau(size, covariance, _draw_around_one(rng, options.plateau_beta))
    return kernels.gaussian(size, covariance)


def gaussian_noise(image: Image, rng: np.random.Generator, sigma: float, grey: bool) -> Image:
    """Noise (H, W, 1 if grey else 3) to be added to `image`; `sigma` in 8-bit code values."""
    channels = 1 if grey else image.shape[2]
    return rng.standard_normal((*image.shape[:2], channels), dtype=np.float32) * np.float32(sigma / 255)


def poisson_noise(image: Image, rng: np.random.Generator, scale: float, grey: bool) -> Image:
    """Shot noise (H, W, 1 if grey else 3) to be added to `image`: its variance is proportional to the brightness.

    White counts as many photons as the picture has 8-bit levels in use, rounded up to a power of two (as in
    scikit-image); so a picture of few levels is noisy.
    """
    source = _luma(image) if grey else image
    codes = _to_uint8(source)
    photons = 2.0 ** np.ceil(np.log2(len(np.unique(codes))))
    exact = codes.astype(np.float64) / 255
    noise: Image = ((rng.poisson(exact * photons) / photons - exact) * scale).astype(np.float32)
    return noise


def _blur(image: Image, rng: np.random.Generator, options: StageOptions) -> Image:
    if rng.random() >= options.blur_probability:
        return image
    return _filter(image, draw_kernel(rng, options))


def _final_sinc(image: Image, rng: np.random.Generator, options: DegradationOptions) -> Image:
    if rng.random() >= options.final_sinc_probability:
        return image
    return _filter(image, kernels.sinc(_draw_kernel_size(rng), rng.uniform(np.pi / 3, np.pi)))


def _drawn_size(size: tuple[int, int], rng: np.random.Generator, options: StageOptions) -> tuple[int, int]:
    low, high = options.resize_range
    limits = {"up": (1.0, high), "down": (low, 1.0), "keep": (1.0, 1.0)}
    factor = rng.uniform(*limits[options.resize.draw(rng)])
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _resize(image: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """Resize to `size` (H, W) by a random filter; as in the official code, only area averages when it shrinks."""
    interpolation = RESIZE_FILTERS[rng.integers(len(RESIZE_FILTERS))]
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=interpolation).astype(np.float32, copy=False)


def _add_noise(image: Image, rng: np.random.Generator, options: StageOptions) -> Image:
    gaussian = rng.random() < options.gaussian_noise_probability
    grey = bool(rng.random() < options.grey_noise_probability)
    if gaussian:
        noise = gaussian_noise(image, rng, rng.uniform(*options.gaussian_noise_sigma), grey)
    else:
        noise = poisson_noise(image, rng, rng.uniform(*options.poisson_noise_scale), grey)
    noisy: Image = image + noise
    return noisy.clip(0, 1)


def _jpeg(image: Image, rng: np.random.Generator, options: StageOptions) -> Image:
    low, high = options.jpeg_quality
    quality = int(rng.integers(low, high, endpoint=True))
    bgr = _to_uint8(image)[..., ::-1]
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded one line above
    return decoded[..., ::-1].astype(np.float32) / np.float32(255)


def _filter(image: Image, kernel: kernels.Kernel) -> Image:
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101).astype(np.float32, copy=False)


def _draw_kernel_size(rng: np.random.Generator) -> int:
    return KERNEL_SIZES[rng.integers(len(KERNEL_SIZES))]


def _draw_around_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Below 1 half of the time, else above, uniformly in either half."""
    return rng.uniform(limits[0], 1.0) if rng.random() < 0.5 else rng.uniform(1.0, limits[1])


def _luma(image: Image) -> Image:
    return (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _to_uint8(image: Image) -> npt.NDArray[np.uint8]:
    return np.rint(image * 255).clip(0, 255).astype(np.uint8)
