"""Real-ESRGAN's second-order degradation: makes an LR picture like those on the internet from a clean HR picture.

Source: Wang et al., Real-ESRGAN (arXiv 2107.10833), section 3. Blur, resize, noise and JPEG, twice; and a sinc filter
before or after the last JPEG. JPEG comes from a real encoder here; the official code approximates one on the GPU.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from esrgan_export.image_types import FloatImage
from esrgan_export.video_frame import through_codec
from esrgan_train.data import kernels
from esrgan_train.data.degradation_options import DegradationOptions, StageOptions, VideoOptions

KERNEL_SIZES = range(7, 22, 2)
RESIZE_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_WIDE_KERNEL = 13  # from this size on, a sinc kernel is wide enough to show a cutoff below pi / 3
_SHARPEN_WINDOW, _SHARPEN_WEIGHT, _SHARPEN_THRESHOLD = 51, 0.5, 10


def degrade(
    hr: npt.NDArray[np.uint8] | FloatImage, rng: np.random.Generator, options: DegradationOptions, scale: int
) -> npt.NDArray[np.uint8]:
    """Make an LR picture of `hr`. A pure function of its arguments and the state of `rng`.

    Borders are mirrored, which shows where a kernel is 21 px wide. To avoid that, degrade more than the patch and crop
    afterwards, as `Crops` and the official code do.

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
    image: FloatImage = hr.astype(np.float32) / np.float32(255) if hr.dtype == np.uint8 else hr.astype(np.float32)
    image = _blur(image, rng, options.first)
    image = _resize(image, rng, _drawn_size((height, width), rng, options.first))
    image = _add_noise(image, rng, options.first)
    image = _jpeg(image, rng, options.first)
    image = _blur(image, rng, options.second)
    image = _resize(image, rng, _drawn_size(target, rng, options.second))
    image = _add_noise(image, rng, options.second)
    # The paper's two orders. The authors say that JPEG between the sinc filter and the resize makes twisted lines.
    if rng.random() < 0.5:
        image = _final_sinc(_resize(image, rng, target), rng, options)
        image = _last_compression(image, rng, options)
    else:
        image = _last_compression(image, rng, options)
        image = _final_sinc(_resize(image, rng, target), rng, options)
    return _to_uint8(image)


def sharpen(hr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Unsharp masking: Real-ESRGAN trains on sharpened HR pictures. uint8 (H, W, 3) in and out.

    The detail is what a Gaussian of 8 px (51 px wide) removes. Half of it is added to the picture where it is more than
    10 code values; the mask of these places is blurred, so that it has no edges.
    """
    window = (_SHARPEN_WINDOW, _SHARPEN_WINDOW)
    image = hr.astype(np.float32)
    detail = image - cv2.GaussianBlur(image, window, 0)
    mask = cv2.GaussianBlur((np.abs(detail) > _SHARPEN_THRESHOLD).astype(np.float32), window, 0)
    sharp = (image + _SHARPEN_WEIGHT * detail).clip(0, 255)
    return _to_uint8((mask * sharp + (1 - mask) * image) / 255)


def draw_kernel(rng: np.random.Generator, options: StageOptions) -> kernels.Kernel:
    """A random blur kernel (size, size); the size is one of `KERNEL_SIZES`."""
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


def gaussian_noise(image: FloatImage, rng: np.random.Generator, sigma: float, grey: bool) -> FloatImage:
    """Noise (H, W, 1 if grey else 3) to be added to `image`; `sigma` in 8-bit code values."""
    channels = 1 if grey else image.shape[2]
    return rng.standard_normal((*image.shape[:2], channels), dtype=np.float32) * np.float32(sigma / 255)


def poisson_noise(image: FloatImage, rng: np.random.Generator, scale: float, grey: bool) -> FloatImage:
    """Shot noise (H, W, 1 if grey else 3) to be added to `image`: its variance is proportional to the brightness.

    White stands for as many photons as the picture has different 8-bit levels, rounded up to a power of two, as in
    scikit-image. A picture with few levels therefore becomes noisy.
    """
    source = _luma(image) if grey else image
    codes = _to_uint8(source)
    photons = 2.0 ** np.ceil(np.log2(len(np.unique(codes))))
    exact = codes.astype(np.float64) / 255
    noise: FloatImage = ((rng.poisson(exact * photons) / photons - exact) * scale).astype(np.float32)
    return noise


def _blur(image: FloatImage, rng: np.random.Generator, options: StageOptions) -> FloatImage:
    if rng.random() >= options.blur_probability:
        return image
    return _filter(image, draw_kernel(rng, options))


def _final_sinc(image: FloatImage, rng: np.random.Generator, options: DegradationOptions) -> FloatImage:
    if rng.random() >= options.final_sinc_probability:
        return image
    return _filter(image, kernels.sinc(_draw_kernel_size(rng), rng.uniform(np.pi / 3, np.pi)))


def _drawn_size(size: tuple[int, int], rng: np.random.Generator, options: StageOptions) -> tuple[int, int]:
    low, high = options.resize_range
    limits = {"up": (1.0, high), "down": (low, 1.0), "keep": (1.0, 1.0)}
    factor = rng.uniform(*limits[options.resize.draw(rng)])
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _resize(image: FloatImage, rng: np.random.Generator, size: tuple[int, int]) -> FloatImage:
    """Resize to `size` (H, W) with a random filter. As in the official code, only `INTER_AREA` is antialiased."""
    interpolation = RESIZE_FILTERS[rng.integers(len(RESIZE_FILTERS))]
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=interpolation).astype(np.float32, copy=False)


def _add_noise(image: FloatImage, rng: np.random.Generator, options: StageOptions) -> FloatImage:
    gaussian = rng.random() < options.gaussian_noise_probability
    grey = bool(rng.random() < options.grey_noise_probability)
    if gaussian:
        noise = gaussian_noise(image, rng, rng.uniform(*options.gaussian_noise_sigma), grey)
    else:
        noise = poisson_noise(image, rng, rng.uniform(*options.poisson_noise_scale), grey)
    noisy: FloatImage = image + noise
    return noisy.clip(0, 1)


def _jpeg(image: FloatImage, rng: np.random.Generator, options: StageOptions) -> FloatImage:
    low, high = options.jpeg_quality
    quality = int(rng.integers(low, high, endpoint=True))
    bgr = _to_uint8(image)[..., ::-1]
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded two lines above
    return decoded[..., ::-1].astype(np.float32) / np.float32(255)


def _last_compression(image: FloatImage, rng: np.random.Generator, options: DegradationOptions) -> FloatImage:
    if options.video is None or rng.random() >= options.video.probability:
        return _jpeg(image, rng, options.second)
    return _video(image, rng, options.video)


def _video(image: FloatImage, rng: np.random.Generator, options: VideoOptions) -> FloatImage:
    """The last frame of a short clip in which the picture moves evenly; it ends where `image` is."""
    codec = options.codecs.draw(rng)
    quality = int(rng.integers(*options.quality(codec), endpoint=True))
    count = int(rng.integers(*options.frames, endpoint=True))
    motion = rng.uniform(-options.motion, options.motion, 2)
    size = (image.shape[1], image.shape[0])
    frames = []
    for before in range(count - 1, 0, -1):
        shift = np.array([[1, 0, motion[0] * before], [0, 1, motion[1] * before]])
        moved = cv2.warpAffine(image, shift, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        frames.append(_to_uint8(moved.astype(np.float32, copy=False)))
    frames.append(_to_uint8(image))
    return through_codec(frames, codec, quality)[-1].astype(np.float32) / np.float32(255)


def _filter(image: FloatImage, kernel: kernels.Kernel) -> FloatImage:
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101).astype(np.float32, copy=False)


def _draw_kernel_size(rng: np.random.Generator) -> int:
    return KERNEL_SIZES[rng.integers(len(KERNEL_SIZES))]


def _draw_around_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Uniform in [low, 1] or uniform in [1, high], each half of the time."""
    return rng.uniform(limits[0], 1.0) if rng.random() < 0.5 else rng.uniform(1.0, limits[1])


def _luma(image: FloatImage) -> FloatImage:
    return (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _to_uint8(image: FloatImage) -> npt.NDArray[np.uint8]:
    return np.rint(image * 255).clip(0, 255).astype(np.uint8)
