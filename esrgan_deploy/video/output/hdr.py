"""Static HDR metadata as options of encoders (SMPTE ST 2086, CTA-861.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from esrgan_deploy.video.info import MasteringDisplay, StaticHdr


def with_hdr(encoder: str, options: Mapping[str, str], hdr: StaticHdr | None) -> dict[str, str]:
    """`options` of libx264, libx265 or libsvtav1, with those that make it write `hdr` into its headers."""
    if hdr is None:
        return dict(options)
    key, settings = _SETTINGS[encoder]
    own = [options[key]] if key in options else []
    return {**options, key: ":".join([*own, *settings(hdr)])}


def _h26x(display: str, light: str) -> Callable[[StaticHdr], list[str]]:
    """Chromaticity in steps of 0.00002 and luminance in steps of 0.0001 cd/m2, as in their SEI messages."""

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
"""Encoder -> the option that takes settings separated by colons, and a function that gives them."""


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
