"""Pixel formats: what FFmpeg's names mean, and which one the output of a clip gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from av import VideoFormat

from esrgan_deploy.errors import OutputError

if TYPE_CHECKING:
    from esrgan_deploy.video.probe import VideoInfo

Y4M = "y4m"
"""Stands beside the codecs for uncompressed pictures in a pipe."""
DEPTHS = (8, 10, 12)
"""Bits per sample that encoders take."""
_DEEPEST = DEPTHS[-1]
_SUBSAMPLINGS: Mapping[tuple[int, int], str] = MappingProxyType({(2, 2): "420", (2, 1): "422", (1, 1): "444"})
"""Luma columns and lines for each chroma sample -> the usual name, which is also the one in FFmpeg's formats."""


@dataclass(frozen=True)
class Samples:
    """What the samples of a pixel format are, however they are laid out in memory."""

    family: Literal["rgb", "grey", "yuv"]
    bits: int
    """Of the deepest component."""
    columns: int = 1
    """Luma columns for each chroma sample."""
    lines: int = 1
    """Luma lines for each chroma sample."""

    @property
    def subsampling(self) -> str:
        """One of "420", "422" and "444"; other ratios, such as 4:1:1, are resampled to the last."""
        return _SUBSAMPLINGS.get((self.columns, self.lines), "444")

    @property
    def planar(self) -> str:
        """FFmpeg's name of the planar little-endian format that holds these samples without loss."""
        depth = "" if self.bits <= 8 else f"{self.bits}le"
        if self.family == "grey":
            return f"gray{depth}"
        return f"gbrp{depth}" if self.family == "rgb" else f"yuv{self.subsampling}p{depth}"


def samples_of(pixel_format: str) -> Samples:
    """What a pixel format of FFmpeg holds; a palette counts as RGB, its alpha as nothing."""
    # The components of a format have the size of its chroma only if asked with a size.
    layout = VideoFormat(pixel_format, 16, 16)
    components = [component for component in layout.components if not component.is_alpha]
    bits = max(component.bits for component in components)
    if layout.is_rgb or layout.has_palette:
        return Samples("rgb", bits)
    if len(components) == 1:
        return Samples("grey", bits)
    return Samples("yuv", bits, 16 // components[1].width, 16 // components[1].height)


def why_not_read(pixel_format: str) -> tuple[str, str] | None:
    """Why pictures of a format would lose something: the words, and ffmpeg's arguments for a copy that can be read."""
    layout = VideoFormat(pixel_format)
    samples = samples_of(pixel_format)
    if any(component.is_alpha for component in layout.components):
        return f"has an alpha channel ({pixel_format}), which video output cannot keep", "-pix_fmt yuv444p"
    if pixel_format.startswith(("xyz", "bayer")):
        return f"is {pixel_format}, which is neither YUV nor RGB", "-pix_fmt yuv444p12le -c:v libx265"
    if samples.bits > _DEEPEST:
        arguments = f"-pix_fmt {Samples('yuv', _DEEPEST, samples.columns, samples.lines).planar} -c:v libx265"
        return f"is {pixel_format}, and no encoder here keeps more than {_DEEPEST} bits per sample", arguments
    return None


@dataclass(frozen=True)
class _Held:
    """What an encoder can hold."""

    bits: int
    """At most."""
    subsamplings: tuple[str, ...]
    odd_sizes: bool
    """True: 4:2:0 works for an odd width or height; H.264 and H.265 cannot crop half a chroma sample."""


_HELD: Mapping[str, _Held] = MappingProxyType(
    {
        "h264": _Held(10, ("420", "422", "444"), odd_sizes=False),
        "h265": _Held(12, ("420", "422", "444"), odd_sizes=False),
        "av1": _Held(10, ("420",), odd_sizes=True),
        Y4M: _Held(12, ("420", "422", "444"), odd_sizes=True),
    }
)
"""By the names of `CODECS`: libx264, libx265 and SVT-AV1 as FFmpeg drives them."""


def default_codec(info: VideoInfo) -> str:
    """The key of `CODECS` for a clip when nobody chose: H.264 plays everywhere, its 10 bit profile nearly nowhere."""
    return "h264" if info.bits <= 8 else "h265"


def output_pixel_format(info: VideoInfo, codec: str, height: int, width: int) -> str:
    """The pixel format that keeps depth and subsampling of a source.

    RGB and grey become 4:2:0; 4:1:0, 4:1:1 and 4:4:0 become 4:4:4. A depth that encoders do not know goes up to the
    next one. Odd sizes become 4:4:4 where the encoder needs that.

    Args:
        info: the source.
        codec: a key of `CODECS`.
        height: of the output.
        width: of the output.

    Raises:
        OutputError: the codec cannot hold that; the message names one that can.
    """
    samples = samples_of(info.pixel_format)
    bits = next(depth for depth in DEPTHS if depth >= samples.bits)
    subsampling = samples.subsampling if samples.family == "yuv" else "420"

    def fitted(held: _Held) -> str | None:
        cut = width % 2 or (height % 2 and subsampling == "420")
        wanted = subsampling if held.odd_sizes or subsampling == "444" or not cut else "444"
        return wanted if wanted in held.subsamplings and bits <= held.bits else None

    chosen = fitted(_HELD[codec])
    if chosen is None:
        others = " or ".join(name for name, held in _HELD.items() if fitted(held) and name != Y4M)
        raise OutputError(
            f"{info.path}: has {bits} bits in {':'.join(subsampling)}, which {codec} cannot hold here; "
            f"choose the codec {others}"
        )
    return Samples("yuv", bits, *next(ratio for ratio, name in _SUBSAMPLINGS.items() if name == chosen)).planar
