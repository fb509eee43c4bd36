"""From a decoder's pictures to RGB frames and back, with the matrix and the range that the clip states.

Numbers for matrix, primaries and transfer are the code points of ITU-T H.273, which FFmpeg uses as well. The matrix and
the range take part in the conversion. Primaries and transfer say what RGB means; the network works on the values as
they are, and both tags are handed on.

swscale is reached through FFmpeg's scale filter, because PyAV's own conversion cannot be told where chroma samples sit:
it shifts colour by half a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

BT709, BT601 = 1, 6
UNSPECIFIED = 2
RGB = 0
_FILTER_MATRIX = {BT709: "bt709", 5: "bt601", BT601: "bt601"}
"""H.273 matrix -> name in the scale filter; 5 (625 lines) and 6 (525 lines) are the same numbers."""
MATRICES = (RGB, UNSPECIFIED, *_FILTER_MATRIX)
"""The matrices that can be converted."""
PQ, HLG = 16, 18
LIMITED_RANGE, FULL_RANGE = 1, 2
"""`AVColorRange`."""

# Bicubic chroma at every pixel, rounded alike on every CPU, so that two machines give the same frames.
_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


@dataclass(frozen=True)
class Colour:
    """What the sample values of a clip mean."""

    matrix: int
    """H.273 MatrixCoefficients: how RGB became YUV; 0: the samples are RGB."""
    full_range: bool
    """True: 0 to 255; False: luma 16 to 235, chroma 16 to 240."""
    primaries: int
    """H.273 ColourPrimaries."""
    transfer: int
    """H.273 TransferCharacteristics."""

    def resolved(self, width: int, height: int) -> Colour:
        """With a matrix where the clip states none: BT.709 for high definition, BT.601 below, as players assume.

        The rule is mpv's. It depends on the size, and upscaling changes the size, so the output has to state the matrix
        that the input left open. RGB gets one as well, and the usual range, since it is encoded as YUV.
        """
        if self.matrix not in (UNSPECIFIED, RGB):
            return self
        matrix = BT709 if width >= 1280 or height > 576 else BT601
        return replace(self, matrix=matrix, full_range=self.full_range and self.matrix != RGB)


def to_rgb(
    width: int, height: int, pixel_format: str, colour: Colour, *, centred_chroma: bool = False
) -> Callable[[VideoFrame], npt.NDArray[np.uint8]]:
    """A function that turns pictures of one size and format into uint8 RGB arrays (height, width, 3).

    `centred_chroma` is for codecs that put subsampled chroma halfway between two columns, as JPEG does; the others put
    it level with the left one.
    """
    source = {"out_range": "full"}
    if not av.VideoFormat(pixel_format).is_rgb:
        source["in_color_matrix"] = _FILTER_MATRIX[colour.matrix]
        source["in_range"] = "full" if colour.full_range else "limited"
        source["in_chroma_loc"] = "center" if centred_chroma else "left"
    convert = _converter(width, height, pixel_format, "rgb24", source)
    return lambda picture: cast("npt.NDArray[np.uint8]", convert(picture).to_ndarray())


def to_yuv(width: int, height: int, pixel_format: str, colour: Colour) -> Callable[[npt.NDArray[np.uint8]], VideoFrame]:
    """A function that turns uint8 RGB arrays (height, width, 3) into pictures for an encoder.

    Chroma samples sit where H.264, H.265 and AV1 assume them when nothing is said: level with the left luma sample.
    """
    target = {
        "in_range": "full",
        "out_color_matrix": _FILTER_MATRIX[colour.matrix],
        "out_range": "full" if colour.full_range else "limited",
        "out_chroma_loc": "left",
    }
    convert = _converter(width, height, "rgb24", pixel_format, target)
    return lambda frame: convert(VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24"))


def _converter(
    width: int, height: int, source: str, target: str, options: dict[str, str]
) -> Callable[[VideoFrame], VideoFrame]:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", video_size=f"{width}x{height}", pix_fmt=source, time_base="1/1"),
        graph.add("scale", flags=_FLAGS, **options),
        graph.add("format", pix_fmts=target),
        graph.add("buffersink"),
    )
    graph.configure()

    def convert(picture: VideoFrame) -> VideoFrame:
        graph.vpush(picture)
        return graph.vpull()

    return convert
