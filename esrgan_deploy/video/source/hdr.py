"""Static HDR metadata of a clip, read from what FFmpeg attaches to its first frame (SMPTE ST 2086, CTA-861.3)."""

from __future__ import annotations

import struct
from fractions import Fraction

from esrgan_deploy.video.info import MasteringDisplay, StaticHdr

_DISPLAY = struct.Struct("@20i2i")
"""`AVMasteringDisplayMetadata`: ten rationals (x and y of red, green, blue and white, lowest and highest luminance),
then whether there are primaries and luminances."""

_LIGHT = struct.Struct("@2I")
"""`AVContentLightMetadata`: the brightest pixel, the brightest frame."""


def parse_static_hdr(display: bytes | None, light: bytes | None) -> StaticHdr | None:
    """From FFmpeg's side data `MASTERING_DISPLAY_METADATA` and `CONTENT_LIGHT_LEVEL`; None if both state nothing.

    Encoders take primaries and luminances of a display together only, so a display with only one of them is left out.
    """
    levels = _LIGHT.unpack_from(light) if light else (0, 0)
    parsed = StaticHdr(_parsed_display(display), levels if any(levels) else None)
    return None if parsed == StaticHdr() else parsed


def _parsed_display(data: bytes | None) -> MasteringDisplay | None:
    if not data:
        return None
    *numbers, has_primaries, has_luminance = _DISPLAY.unpack_from(data)
    if not (has_primaries and has_luminance and all(numbers[1::2])):
        return None
    values = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return MasteringDisplay(tuple(zip(values[0:8:2], values[1:8:2], strict=True)), values[8], values[9])
