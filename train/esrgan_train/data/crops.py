"""Random crops by number: sample 1000 is the same pixels whoever asks, whenever, in whatever process.

No random state has to be saved for an exact resume, no worker repeats another's crops, and two processes that take
every other sample see together what one process sees.
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
from esrgan_train.data.cache import Pair, Picture
from esrgan_train.data.degradation import DegradationOptions, degrade, sharpen


@dataclass(frozen=True)
class Source:
    """One data set of several."""

    folder: Path
    pairs: Sequence[Pair]
    ratio: float
    """Its share of the samples, relative to the other sources'."""
    degradation: DegradationOptions | None = None
    """LR crops are made from HR crops by this; None: they are cut from the LR pictures."""


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of LR and HR: uint8 tensors (3, patch / scale, patch / scale) and (3, patch, patch).

    The source is drawn by its ratio, the picture by its area, the place uniformly, and one of eight orientations.

    Args:
        sources: see `Source`.
        patch: HR pixels, a multiple of `scale`.
        scale: HR pixels per LR pixel.
        seed: samples of another seed are other crops.
        flips: mirror left to right, every second time.
        rotations: mirror top to bottom, and swap rows with columns, each every second time: with `flips`, all eight
            orientations. As the official code's use_hflip and use_rot.
        textured_of: draw this many places and keep the one with most detail; 1 takes what comes.

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
        """Sample `number`, 0 or more; there is no last one."""
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

    def _crop(self, pair: Pair, rng: np.random.Generator) -> tuple[Picture, Picture]:
        size = self.patch // self.scale
        top, left = (int(rng.integers(0, length - size + 1)) for length in pair.lr.shape[:2])
        lr = pair.lr[top : top + size, left : left + size]
        top, left = top * self.scale, left * self.scale
        return lr, pair.hr[top : top + self.patch, left : left + self.patch]

    def _most_textured(self, crops: list[tuple[Picture, Picture]]) -> tuple[Picture, Picture]:
        """The crop whose LR loses most when it is blurred: flat sky and bokeh teach a network little."""
        return crops[0] if len(crops) == 1 else max(crops, key=lambda crop: _detail(crop[0]))

    def _orient(self, crops: tuple[Picture, Picture], rng: np.random.Generator) -> tuple[Picture, Picture]:
        mirrored, turned, upside_down = rng.random(3) < 0.5
        lr, hr = crops
        if self.flips and mirrored:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        if self.rotations and upside_down:
            lr, hr = lr[::-1], hr[::-1]
        if self.rotations and turned:
            lr, hr = lr.swapaxes(0, 1), hr.swapaxes(0, 1)
        return lr, hr


def _shares(pairs: Sequence[Pair]) -> npt.NDArray[np.float64]:
    areas = np.array([pair.hr.shape[0] * pair.hr.shape[1] for pair in pairs], np.float64)
    shares: npt.NDArray[np.float64] = areas / areas.sum()
    return shares


def _detail(lr: Picture) -> float:
    """Mean absolute second difference of the green channel, in both directions."""
    green = lr[:, :, 1].astype(np.int32)
    return float(np.abs(np.diff(green, 2, axis=0)).mean() + np.abs(np.diff(green, 2, axis=1)).mean())


def _to_tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C"))
