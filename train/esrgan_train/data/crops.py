"""Random crops by number: crop 1000 has the same pixels in every process, thread and run.

So an exact resume needs no random state, no thread repeats the crops of another, and two processes that take every
other crop see together what one process sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_deploy.errors import OptionError
from esrgan_export.image_types import Uint8Image
from esrgan_train.data.cache import Pair
from esrgan_train.data.degradation import degrade, sharpen
from esrgan_train.data.degradation_options import DegradationOptions

CONTEXT = (10, 25)
"""LR pixels around a crop, before and behind, that are degraded with it and cut off: as many as kernels and resizes
reach, and drawn anew for each crop, so that the blocks of JPEG (8 px) and of video codecs (16 px) begin anywhere."""


class Sample(NamedTuple):
    """One crop, or with a first dimension a batch of them, as uint8 tensors (3, height, width)."""

    lr: Tensor
    hr: Tensor
    target: Tensor
    """What the pixel and perceptual losses compare SR with: HR, sharpened where the degradation says so."""


@dataclass(frozen=True)
class Source:
    """One of the data sets that crops are taken from."""

    folder: Path
    pairs: Sequence[Pair]
    ratio: float
    """Its share of the crops, relative to the other sources."""
    degradation: DegradationOptions | None = None
    """How LR crops are made from HR crops; None: they are cut from the LR pictures."""


class Crops(Dataset[Sample]):
    """Crops of LR and HR: uint8 tensors (3, patch / scale, patch / scale) and (3, patch, patch).

    The source is drawn by its ratio, the picture by its area; the place and one of eight orientations uniformly.

    Args:
        sources: see `Source`.
        patch: HR pixels, a multiple of `scale`.
        scale: HR pixels per LR pixel.
        seed: another seed gives other crops.
        flips: mirror left to right with probability 1/2; `use_hflip` of BasicSR.
        rotations: mirror top to bottom, and swap rows with columns, each with probability 1/2; `use_rot` of BasicSR.
            Together with `flips` these are all eight orientations.
        textured_of: draw this many places and keep the one with most detail; 1 keeps every crop as it is drawn.

    Raises:
        OptionError: a picture is smaller than the patch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        patch: int,
        scale: int,
        seed: int,
        *,
        flips: bool = True,
        rotations: bool = True,
        textured_of: int = 1,
    ) -> None:
        self.sources, self.patch, self.scale, self.seed = sources, patch, scale, seed
        self.flips, self.rotations, self.textured_of = flips, rotations, textured_of
        for source in sources:
            for pair in source.pairs:
                if min(pair.hr.shape[:2]) < patch:
                    size = f"{pair.hr.shape[1]}x{pair.hr.shape[0]}"
                    raise OptionError(
                        f"{source.folder / pair.name}: is {size}, smaller than data.patch {patch}; "
                        "remove it or make the patch smaller"
                    )
        ratios = np.array([source.ratio for source in sources])
        self._ratios = ratios / ratios.sum()
        self._areas = [_shares(source.pairs) for source in sources]

    def __getitem__(self, number: int) -> Sample:
        """Crop `number`, from 0; there is no last one."""
        rng = np.random.default_rng((self.seed, number))
        at = int(rng.choice(len(self.sources), p=self._ratios))
        source = self.sources[at]
        pair = source.pairs[int(rng.choice(len(source.pairs), p=self._areas[at]))]
        top, left = self._most_textured(pair, [self._place(pair, rng) for _ in range(self.textured_of)])
        if source.degradation is None:
            lr, hr = self._cut(pair.lr, top, left, 1), self._cut(pair.hr, top, left, self.scale)
            target = hr
        else:
            lr, hr, target = self._degrade(pair, top, left, rng, source.degradation)
        mirrored, transposed, upside_down = rng.random(3) < 0.5
        turns = (self.flips and mirrored, self.rotations and upside_down, self.rotations and transposed)
        lr_tensor, hr_tensor = _to_tensor(_turn(lr, *turns)), _to_tensor(_turn(hr, *turns))
        return Sample(lr_tensor, hr_tensor, hr_tensor if target is hr else _to_tensor(_turn(target, *turns)))

    def _place(self, pair: Pair, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of the crop's first LR pixel."""
        size = self.patch // self.scale
        top, left = (int(rng.integers(0, length - size + 1)) for length in pair.lr.shape[:2])
        return top, left

    def _cut(self, picture: Uint8Image, top: int, left: int, factor: int) -> Uint8Image:
        """The crop at this place of LR, out of a picture that is `factor` times larger than LR."""
        size = self.patch // self.scale * factor
        return picture[top * factor : top * factor + size, left * factor : left * factor + size]

    def _degrade(
        self, pair: Pair, top: int, left: int, rng: np.random.Generator, degradation: DegradationOptions
    ) -> tuple[Uint8Image, Uint8Image, Uint8Image]:
        """LR, HR and target of the crop, made with as much context as the picture has."""
        size = self.patch // self.scale
        before, behind = rng.integers(*CONTEXT, 2, endpoint=True), rng.integers(*CONTEXT, 2, endpoint=True)
        rows, columns = (
            slice(max(0, first - int(more)), min(length, first + size + int(further)))
            for first, length, more, further in zip((top, left), pair.lr.shape[:2], before, behind, strict=True)
        )
        row, column = top - rows.start, left - columns.start
        hr = pair.hr[
            rows.start * self.scale : rows.stop * self.scale, columns.start * self.scale : columns.stop * self.scale
        ]
        target = sharpen(hr) if degradation.sharpen_target else hr
        lr = self._cut(degrade(target, rng, degradation, self.scale), row, column, 1)
        hr_crop = self._cut(hr, row, column, self.scale)
        return lr, hr_crop, hr_crop if target is hr else self._cut(target, row, column, self.scale)

    def _most_textured(self, pair: Pair, places: list[tuple[int, int]]) -> tuple[int, int]:
        """The place with most detail in LR: a network learns little from flat sky and blurred background."""
        if len(places) == 1:
            return places[0]
        return max(places, key=lambda place: _detail(self._cut(pair.lr, place[0], place[1], 1)))


def _turn(picture: Uint8Image, mirrored: bool, upside_down: bool, transposed: bool) -> Uint8Image:
    if mirrored:
        picture = picture[:, ::-1]
    if upside_down:
        picture = picture[::-1]
    return picture.swapaxes(0, 1) if transposed else picture


def _shares(pairs: Sequence[Pair]) -> npt.NDArray[np.float64]:
    """The area of each picture as a share of them all."""
    areas = np.array([pair.hr.shape[0] * pair.hr.shape[1] for pair in pairs], np.float64)
    shares: npt.NDArray[np.float64] = areas / areas.sum()
    return shares


def _detail(lr: Uint8Image) -> float:
    """Mean absolute second difference of the green channel, in both directions."""
    green = lr[:, :, 1].astype(np.int32)
    return float(np.abs(np.diff(green, 2, axis=0)).mean() + np.abs(np.diff(green, 2, axis=1)).mean())


def _to_tensor(picture: Uint8Image) -> Tensor:
    return torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C"))
