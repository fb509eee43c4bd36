"""Convert decoded frames to RGB arrays and back, with the matrix and the range that the clip states.

Numbers for matrix, primaries and transfer are the code points of ITU-T H.273, which FFmpeg uses as well. Only matrix
and range change the values. Primaries and transfer are tags that the output gets too; the network works on the values
as they are, be they gamma, PQ or HLG.

FFmpeg's swscale is not used for it: it takes 1020 for the white of 10 bit samples, not 1023, which shifts RGB by four
code values. All sums are integers, or floating-point numbers that hold them exactly, so that all processors give the
same frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from esrgan_deploy.video.info import FULL_RANGE, LIMITED_RANGE, WEIGHTS, Colour, Samples, samples_of
from esrgan_deploy.video.pixels.chroma import ChromaReader, ChromaWriter, clamp, grid_of

Pixels = npt.NDArray[Any]
"""RGB, uint8 or uint16, (height, width, 3)."""
Matrix = npt.NDArray[np.float64]
"""For `cv2.transform`: (3, 4), the last column is added."""

_CHUNK = 1 << 16
"""Pixels that are converted at once: few enough for their buffers to stay in the second-level cache."""
_SPARE_BITS = 4
"""Additional bits of precision of chroma deeper than 8 bits while it is filtered."""
_DIGITS_16, _DIGITS_32 = 13, 24
"""Binary digits after the point of matrices for uint16 and int32. OpenCV multiplies uint16 in float32, whose 24 digits
hold the sums of 8 bit code values, which are below 2^11; it multiplies int32 in float64."""


def to_rgb(
    width: int, height: int, pixel_format: str, colour: Colour, *, chroma_location: str = "left"
) -> Callable[[VideoFrame], Pixels]:
    """A function that turns frames of one size and format into RGB arrays (height, width, 3).

    Samples of up to 8 bits give uint8, deeper ones give uint16 in which white is 65535 whatever the depth. Chroma is
    interpolated linearly between its samples. Each call returns a new array.

    `pixel_format` is FFmpeg's name of one that `probe` accepts; `colour` has a matrix of `WEIGHTS`, see
    `Colour.resolved`, or is of RGB; `chroma_location` is a key of `chroma.LOCATIONS`.
    """
    samples = samples_of(pixel_format)
    unpacked = _unpacked(width, height, pixel_format, samples, colour, chroma_location)
    if samples.family == "rgb":
        return lambda frame: _from_rgb(unpacked(frame), samples.bits)
    convert = _YuvToRgb(width, height, samples, colour, chroma_location)
    return lambda frame: convert(unpacked(frame))


def to_yuv(
    width: int, height: int, pixel_format: str, colour: Colour, *, chroma_location: str = "left"
) -> Callable[[Pixels], VideoFrame]:
    """A function that turns RGB arrays (height, width, 3), uint8 or uint16, into frames for an encoder.

    `pixel_format` is planar YUV of 8 to 12 bits, see `output_pixel_format`; `colour` has a matrix of `WEIGHTS`;
    `chroma_location` is a key of `chroma.LOCATIONS`.
    """
    converters: dict[Any, _RgbToYuv] = {}

    def convert(pixels: Pixels) -> VideoFrame:
        dtype = pixels.dtype.type
        if dtype not in converters:
            converters[dtype] = _RgbToYuv(width, height, pixel_format, colour, chroma_location, dtype)
        return converters[dtype](pixels)

    return convert


class _YuvToRgb:
    """Converts planar YUV or grey, a few lines at a time."""

    def __init__(self, width: int, height: int, samples: Samples, colour: Colour, location: str) -> None:
        deep = samples.bits > 8
        grid = grid_of(samples.subsampling, location)
        gain = grid.reading_gain
        self._lines = _lines_at_once(width)
        self._reader = None
        if samples.family == "yuv":
            self._reader = ChromaReader(grid, -(-height // grid.lines), -(-width // grid.columns), self._lines)
        self._peak = 65535 if deep else 255
        self._matrix = _decoding(colour, samples.bits, gain, self._peak, _DIGITS_32 if deep else _DIGITS_16)
        work = np.int32 if deep else np.uint16
        self._yuv, self._rgb = (np.empty((self._lines, width, 3), work) for _ in range(2))
        self._planes = [np.full((self._lines, width), gain * 128 << max(0, samples.bits - 8), work) for _ in range(3)]
        self._result = (height, width, 3), np.uint16 if deep else np.uint8

    def __call__(self, frame: VideoFrame) -> Pixels:
        luma, *chroma = _planes(frame)
        if self._reader:
            self._reader.load(chroma)
        result: Pixels = np.empty(*self._result)
        for top in range(0, len(result), self._lines):
            part = result[top : top + self._lines]
            bottom = top + len(part)
            planes = [plane[: len(part)] for plane in self._planes]
            planes[0][:] = luma[top:bottom]
            if self._reader:
                read = self._reader.lines(top, bottom)[:, : len(part), : part.shape[1]]
                planes[1:] = read.astype(self._yuv.dtype, copy=False)
            rgb = self._rgb[: len(part)]
            cv2.transform(cv2.merge(planes, self._yuv[: len(part)]), self._matrix, rgb)
            clamp(rgb, self._peak)
            np.copyto(part, rgb, casting="unsafe")
        return result


class _RgbToYuv:
    """Converts RGB of one dtype to planar YUV, a few lines at a time."""

    def __init__(
        self,
        width: int,
        height: int,
        pixel_format: str,
        colour: Colour,
        location: str,
        dtype: type[np.uint8 | np.uint16],
    ) -> None:
        samples = samples_of(pixel_format)
        grid = grid_of(samples.subsampling, location)
        shallow = dtype is np.uint8 and samples.bits == 8 and grid.down is not False
        work = np.uint16 if shallow else np.int32
        self._shape = (height, width, 3)
        self._format, self._colour = pixel_format, colour
        self._grid_lines = grid.lines
        self._code_peak = (1 << samples.bits) - 1
        self._spare = 0 if grid.across is None else 1 if shallow else _SPARE_BITS
        digits = _DIGITS_16 if shallow else _DIGITS_32
        self._matrix = _encoding(colour, samples.bits, 1 << self._spare, np.iinfo(dtype).max, digits)
        self._lines = _lines_at_once(width)
        buffer = (self._lines + 2 * ChromaWriter.HALO, width + width % grid.columns)
        self._rgb, self._yuv = (np.empty((*buffer, 3), work) for _ in range(2))
        self._luma = np.empty(buffer, work)
        self._writer = ChromaWriter(grid, buffer[1], self._lines, work)

    def __call__(self, pixels: Pixels) -> VideoFrame:
        if pixels.shape != self._shape:
            raise ValueError(f"a frame of shape {pixels.shape} was to be converted as {self._shape}")
        height, width, _ = self._shape
        frame = VideoFrame(width, height, self._format)
        frame.colorspace = self._colour.matrix
        frame.color_range = FULL_RANGE if self._colour.full_range else LIMITED_RANGE
        luma, *chroma = _planes(frame)
        halo = ChromaWriter.HALO
        for top in range(0, height, self._lines):
            bottom = min(top + self._lines, height)
            rgb = self._padded(pixels, top - halo, bottom + bottom % self._grid_lines + halo)
            count = len(rgb)
            yuv = cv2.transform(rgb, self._matrix, self._yuv[:count])
            cv2.split(yuv, [self._luma[:count], *self._writer.buffers(count)])
            np.copyto(luma[top:bottom], self._luma[halo : halo + bottom - top, :width], casting="unsafe")
            rows = slice(top // self._grid_lines, -(-bottom // self._grid_lines))
            self._writer.write([plane[rows] for plane in chroma], self._spare, self._code_peak)
        return frame

    def _padded(self, pixels: Pixels, top: int, bottom: int) -> Pixels:
        """Lines `top` to `bottom` in a buffer; outside the frame its edge is repeated."""
        height, width, _ = self._shape
        rgb = self._rgb[: bottom - top]
        first, last = max(0, top) - top, min(bottom, height) - top
        rgb[first:last, :width] = pixels[top + first : top + last]
        rgb[:, width:] = rgb[:, width - 1 : width]
        rgb[:first], rgb[last:] = rgb[first], rgb[last - 1]
        return rgb


def _lines_at_once(width: int) -> int:
    """An even number of lines for one pass."""
    return max(2, _CHUNK // width // 2 * 2)


def _planes(frame: VideoFrame) -> list[Pixels]:
    """The planes as arrays (height, width) on the frame's own memory."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return [
        np.frombuffer(cast("Any", plane), dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    ]


def _decoding(colour: Colour, bits: int, gain: int, peak: int, digits: int) -> Matrix:
    """From code values to RGB with white at `peak`: H.273, equations 20 to 34 inverted.

    Code values of chroma are `gain` times too large. Weights are rounded to `digits` binary digits, and the offset is
    computed from the rounded ones, so that grey stays grey.
    """
    red, blue = WEIGHTS[colour.matrix]
    green = 1 - red - blue
    black, luma, chroma = _range(colour, bits)
    exact = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    ) / [luma, chroma * gain, chroma * gain]
    weights = np.round(exact * peak * (1 << digits)) / (1 << digits)
    middle = 128 * gain << max(0, bits - 8)
    return np.column_stack([weights, -weights @ [black, middle, middle]])


def _encoding(colour: Colour, bits: int, gain: int, peak: int, digits: int) -> Matrix:
    """From RGB with white at `peak` to code values, those of chroma times `gain`: H.273, equations 20 to 34.

    Weights are rounded to `digits` binary digits; green takes the rounding errors, so that grey has no chroma.
    """
    red, blue = WEIGHTS[colour.matrix]
    black, luma, chroma = _range(colour, bits)
    weights = np.array([red, 1 - red - blue, blue])
    exact = np.stack(
        [
            weights * luma,
            (np.array([0, 0, 1]) - weights) / 2 / (1 - blue) * chroma * gain,
            (np.array([1, 0, 0]) - weights) / 2 / (1 - red) * chroma * gain,
        ]
    ) * ((1 << digits) / peak)
    rounded = np.round(exact)
    rounded[:, 1] = np.round(exact.sum(axis=1)) - rounded[:, 0] - rounded[:, 2]
    middle = 128 * gain << bits - 8
    return np.column_stack([rounded, np.array([black, middle, middle]) * (1 << digits)]) / (1 << digits)


def _range(colour: Colour, bits: int) -> tuple[int, int, int]:
    """Code value of black, and how many code values luma and chroma span."""
    if colour.full_range:
        peak = (1 << max(8, bits)) - 1
        return 0, peak, peak
    step = 1 << max(0, bits - 8)
    return 16 * step, 219 * step, 224 * step


def _from_rgb(frame: VideoFrame, bits: int) -> Pixels:
    if bits <= 8:
        return cast("Pixels", frame.to_ndarray())
    green, blue, red = _planes(frame)
    peak = (1 << bits) - 1
    scaled = np.round(np.arange(peak + 1) * (65535 / peak)).astype(np.uint16)
    return cast("Pixels", scaled[cv2.merge([red, green, blue])])


def _unpacked(
    width: int, height: int, pixel_format: str, samples: Samples, colour: Colour, location: str
) -> Callable[[VideoFrame], VideoFrame]:
    """A function that gives the same samples in planes, or as rgb24; it resamples 4:1:0, 4:1:1 and 4:4:0 only."""
    target = "rgb24" if samples.family == "rgb" and samples.bits <= 8 else samples.planar
    if pixel_format.replace("yuvj", "yuv") == target:
        copy = _filtered(width, height, pixel_format, [("copy", {})])
        # A frame that is stored from the last line to the first one cannot be read in place.
        return lambda frame: copy(frame) if frame.planes[0].line_size < 0 else frame
    options = {"flags": "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"}
    if samples.family != "rgb":
        both = "full" if colour.full_range else "limited"
        options |= {"in_range": both, "out_range": both, "in_chroma_loc": location}
    return _filtered(width, height, pixel_format, [("scale", options), ("format", {"pix_fmts": target})])


def _filtered(
    width: int, height: int, pixel_format: str, filters: list[tuple[str, dict[str, str]]]
) -> Callable[[VideoFrame], VideoFrame]:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", video_size=f"{width}x{height}", pix_fmt=pixel_format, time_base="1/1"),
        *(graph.add(name, **options) for name, options in filters),
        graph.add("buffersink"),
    )
    graph.configure()

    def convert(frame: VideoFrame) -> VideoFrame:
        graph.vpush(frame)
        return graph.vpull()

    return convert
