"""Random crops by number: crop 1000 has the same pixels in every process, thread and run.

So an exact resume needs no random state, no thread repeats the crops of another, and two processes that take every
other crop see together what one process sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Source:
    """One of the data sets that crops are taken from."""

    folder: Path
    pairs: Sequence[Pair]
    ratio: float
    """Its share of the crops, relative to the other sources."""
    degradation: DegradationOptions | None = None
    """How LR crops are made from HR crops; None: they are cut from the LR pictures."""


class Crops(Dataset[tuple[Tensor, Tensor]]):
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

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Crop `number`, from 0; there is no last one."""
        rng = np.random.default_rng((self.seed, number))
        at = int(rng.choice(len(self.sources), p=self._ratios))
        source = self.sources[at]
        pair = source.pairs[int(rng.choice(len(source.pairs), p=self._areas[at]))]
        lr, hr = self._most_textured([self._crop(pair, rng) for _ in range(self.textured_of)])
        if source.degradation is not None:
            hr = sharpen(hr) if source.degradation.sharpen_target else hr
            lr = degrade(hr, rng, source.degradation, self.scale)
        lr, hr = self._orient((lr, hr), rng)
        return _to_tensor(lr), _to_tensor(hr)

    def _crop(self, pair: Pair, rng: np.random.Generator) -> tuple[Uint8Image, Uint8Image]:
        size = self.patch // self.scale
        top, left = (int(rng.integers(0, length - size + 1)) for length in pair.lr.shape[:2])
        lr = pair.lr[top : top + size, left : left + size]
        top, left = top * self.scale, left * self.scale
        return lr, pair.hr[top : top + self.patch, left : left + self.patch]

    def _most_textured(self, crops: list[tuple[Uint8Image, Uint8Image]]) -> tuple[Uint8Image, Uint8Image]:
        """The crop with most detail in LR: a network learns little from flat sky and blurred background."""
        return crops[0] if len(crops) == 1 else max(crops, key=lambda crop: _detail(crop[0]))

    def _orient(self, crops: tuple[Uint8Image, Uint8Image], rng: np.random.Generator) -> tuple[Uint8Image, Uint8Image]:
        mirrored, transposed, upside_down = rng.random(3) < 0.5
        lr, hr = crops
        if self.flips and mirrored:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        if self.rotations and upside_down:
            lr, hr = lr[::-1], hr[::-1]
        if self.rotations and transposed:
            lr, hr = lr.swapaxes(0, 1), hr.swapaxes(0, 1)
        return lr, hr


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
