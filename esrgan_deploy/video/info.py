"""What a clip is: its frames, colours, depth, time base, and what else it carries.

Numbers for matrix, primaries and transfer are the code points of ITU-T H.273, which FFmpeg uses as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from av import VideoFormat

DEPTHS = (8, 10, 12)
"""Bits per sample that encoders take."""
SUBSAMPLINGS: Mapping[tuple[int, int], str] = MappingProxyType({(2, 2): "420", (2, 1): "422", (1, 1): "444"})
"""Luma columns and lines for each chroma sample -> the usual name, which is also the one in FFmpeg's formats."""
LIMITED_RANGE, FULL_RANGE = 1, 2
"""`AVColorRange`."""
RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6
"""H.273 MatrixCoefficients."""
BT2020_PRIMARIES = 9
"""H.273 ColourPrimaries."""
WEIGHTS: Mapping[int, tuple[float, float]] = MappingProxyType(
    {
        BT709: (0.2126, 0.0722),
        4: (0.30, 0.11),  # FCC, title 47 CFR 73.682
        5: (0.299, 0.114),  # BT.601 with 625 lines
        BT601: (0.299, 0.114),  # with 525 lines
        7: (0.212, 0.087),  # SMPTE 240M
        9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
    }
)
"""H.273 matrix -> weights of red and blue in luma, from table 4 of H.273."""
MATRICES = (RGB, UNSPECIFIED, *WEIGHTS)
"""The matrices that can be converted."""


@dataclass(frozen=True)
class Colour:
    """What the sample values of a clip mean."""

    matrix: int
    """H.273 MatrixCoefficients: how RGB became YUV; 0: the samples are RGB."""
    full_range: bool
    """True: 0 to 255; False: luma 16 to 235, chroma 16 to 240. With n bits: to 2^n - 1, and 2^(n - 8) times those."""
    primaries: int
    """H.273 ColourPrimaries."""
    transfer: int
    """H.273 TransferCharacteristics."""

    def resolved(self, width: int, height: int) -> Colour:
        """With a matrix where the clip states none: BT.709 for high definition, BT.601 below, the rule of mpv.

        Players guess by the size, which upscaling changes, so the output has to state the matrix that the input left
        open. RGB gets one as well, and limited range, since it is encoded as YUV.
        """
        if self.matrix not in (UNSPECIFIED, RGB):
            return self
        matrix = BT709 if width >= 1280 or height > 576 else BT601
        return replace(self, matrix=matrix, full_range=self.full_range and self.matrix != RGB)


@dataclass(frozen=True)
class Samples:
    """What the samples of a pixel format are, whatever their layout in memory."""

    family: Literal["rgb", "grey", "yuv"]
    bits: int
    """Of the deepest component."""
    columns: int = 1
    """Luma columns for each chroma sample."""
    lines: int = 1
    """Luma lines for each chroma sample."""

    @property
    def subsampling(self) -> str:
        """One of "420", "422" and "444"; other ratios, such as 4:1:1, are resampled to "444"."""
        return SUBSAMPLINGS.get((self.columns, self.lines), "444")

    @property
    def planar(self) -> str:
        """FFmpeg's name of the planar little-endian format that holds these samples without loss."""
        depth = "" if self.bits <= 8 else f"{self.bits}le"
        if self.family == "grey":
            return f"gray{depth}"
        return f"gbrp{depth}" if self.family == "rgb" else f"yuv{self.subsampling}p{depth}"


def samples_of(pixel_format: str) -> Samples:
    """What a pixel format of FFmpeg holds; a palette counts as RGB, alpha is left out."""
    # PyAV computes the size of chroma planes only for a format that has a size.
    layout = VideoFormat(pixel_format, 16, 16)
    components = [component for component in layout.components if not component.is_alpha]
    bits = max(component.bits for component in components)
    if layout.is_rgb or layout.has_palette:
        return Samples("rgb", bits)
    if len(components) == 1:
        return Samples("grey", bits)
    return Samples("yuv", bits, 16 // components[1].width, 16 // components[1].height)


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that a film was graded on."""

    primaries: tuple[tuple[Fraction, Fraction], ...]
    """CIE 1931 x and y of red, green, blue and white."""
    min_luminance: Fraction
    """cd/m2"""
    max_luminance: Fraction
    """cd/m2"""


@dataclass(frozen=True)
class StaticHdr:
    """What the first frame of a clip says of the display that it was graded on, and of its brightness."""

    display: MasteringDisplay | None = None
    """None: not stated, as below."""
    light: tuple[int, int] | None = None
    """MaxCLL and MaxFALL in cd/m2, the brightest pixel and the highest mean of a frame; 0: unknown."""


@dataclass(frozen=True)
class VideoInfo:
    """One clip: the video stream that is upscaled, and what else it carries."""

    path: Path
    container: str
    """FFmpeg's name of the format, for instance "matroska,webm"."""
    stream: int
    """Index of the video stream that is upscaled, as ffprobe counts."""
    codec: str
    width: int
    height: int
    pixel_format: str
    """FFmpeg's name, for instance "yuv420p"."""
    frames: int | None
    """What the container states, or else duration times rate; None: neither is known. It may be wrong."""
    frame_rate: Fraction
    """Mean, in frames per second; time stamps need not follow it."""
    duration_s: float | None
    time_base: Fraction
    """Seconds per unit of the video stream's time stamps."""
    colour: Colour
    """As the clip states it; `Colour.resolved` fills in what it leaves open."""
    sample_aspect: Fraction
    """Width of a pixel divided by its height."""
    rotation: int
    """Degrees counter-clockwise by which a player turns the frames."""
    display_matrix: tuple[int, ...] | None
    """The nine numbers that `rotation` comes from, in FFmpeg's layout; None: not stated or not readable."""
    others: tuple[str, ...]
    """Kinds of all other streams: "audio", "subtitle", "video" (cover art), "attachment", "data"."""
    chroma_location: str = "left"
    """Where subsampled chroma sits: a key of `chroma.LOCATIONS`; "left" if the clip does not state it."""
    hdr: StaticHdr | None = None
    """None: the first frame states nothing."""
    deinterlace: bool = False
    """True: make one progressive frame of the two fields of each interlaced frame."""
    protocols: tuple[str, ...] = ()
    """What a playlist may open beside local files, for instance "https", "tls", "tcp"."""
    media_format: str | None = None
    """What the file is read as: FFmpeg's name; None: its content tells."""

    @cached_property
    def samples(self) -> Samples:
        """What a frame holds."""
        return samples_of(self.pixel_format)

    @property
    def bits(self) -> int:
        """Bits per sample."""
        return self.samples.bits

    @property
    def usual_duration(self) -> int:
        """Of a frame by the mean rate, in units of the time base."""
        return max(1, round(1 / (self.frame_rate * self.time_base)))
