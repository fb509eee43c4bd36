"""Static HDR metadata: on which display a film was graded, and how bright it gets (SMPTE ST 2086, CTA-861.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

_DISPLAY = struct.Struct("@20i2i")
"""`AVMasteringDisplayMetadata`: ten rationals (x and y of red, green, blue and white, lowest and highest luminance),
then whether there are primaries and luminances."""
_LIGHT = struct.Struct("@2I")
"""`AVContentLightMetadata`: the brightest pixel, the brightest frame."""


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
    """What the first picture of a clip says; None: nothing."""

    display: MasteringDisplay | None = None
    light: tuple[int, int] | None = None
    """MaxCLL and MaxFALL, cd/m2: the brightest pixel of the film, and its brightest frame on average; 0: unknown."""


def parse_static_hdr(display: bytes | None, light: bytes | None) -> StaticHdr | None:
    """From FFmpeg's side data `MASTERING_DISPLAY_METADATA` and `CONTENT_LIGHT_LEVEL`; None if both say nothing.

    Encoders take primaries and luminances of the display together only, so a display with one of them is left out.
    """
    levels = _LIGHT.unpack_from(light) if light else (0, 0)
    parsed = StaticHdr(_parsed_display(display), levels if any(levels) else None)
    return None if parsed == StaticHdr() else parsed


def with_hdr(encoder: str, options: Mapping[str, str], hdr: StaticHdr | None) -> dict[str, str]:
    """Options of libx264, libx265 or libsvtav1, and those that make it write `hdr` into its headers."""
    if hdr is None:
        return dict(options)
    key, settings = _SETTINGS[encoder]
    own = [options[key]] if key in options else []
    return {**options, key: ":".join([*own, *settings(hdr)])}


def _parsed_display(data: bytes | None) -> MasteringDisplay | None:
    if not data:
        return None
    *numbers, has_primaries, has_luminance = _DISPLAY.unpack_from(data)
    if not (has_primaries and has_luminance and all(numbers[1::2])):
        return None
    values = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return MasteringDisplay(tuple(zip(values[0:8:2], values[1:8:2], strict=True)), values[8], values[9])


def _h26x(display: str, light: str) -> Callable[[StaticHdr], list[str]]:
    """Chromaticity in steps of 0.00002 and luminance in steps of 0.0001 cd/m2, as in the SEI messages."""

    def settings(hdr: StaticHdr) -> list[str]:
        return [
            *_listed(display, hdr.display, lambda x: str(round(x * 50_000)), lambda y: str(round(y * 10_000))),
            *([f"{light}={hdr.light[0]},{hdr.light[1]}"] if hdr.light else []),
        ]

    return settings


def _svt_av1(hdr: StaticHdr) -> list[str]:
    return [
        *_listed("mastering-display", hdr.display, lambda x: f"{float(x):.6f}", lambda y: f"{float(y):.6f}"),
        *([f"content-light={hdr.light[0]},{hdr.light[1]}"] if hdr.light else []),
    ]


_SETTINGS: Mapping[str, tuple[str, Callable[[StaticHdr], list[str]]]] = MappingProxyType(
    {
        "libx264": ("x264-params", _h26x("mastering-display", "cll")),
        "libx265": ("x265-params", _h26x("master-display", "max-cll")),
        "libsvtav1": ("svtav1-params", _svt_av1),
    }
)
"""Encoder -> the option that takes settings separated by colons, and the settings."""


def _listed(
    name: str,
    display: MasteringDisplay | None,
    chromaticity: Callable[[Fraction], str],
    luminance: Callable[[Fraction], str],
) -> list[str]:
    if display is None:
        return []
    red, green, blue, white = (f"({chromaticity(x)},{chromaticity(y)})" for x, y in display.primaries)
    limits = f"({luminance(display.max_luminance)},{luminance(display.min_luminance)})"
    return [f"{name}=G{green}B{blue}R{red}WP{white}L{limits}"]
