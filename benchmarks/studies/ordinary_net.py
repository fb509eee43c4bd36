"""How much of a net there is in enlarged pictures: a pattern that repeats every four pixels, as sub-pixel layers make.

    python benchmarks/studies/ordinary_net.py PHOTOS [NAME=CHECKPOINT | NAME=PSNR,GAN ...] [--alphas 0 0.5 0.8 1]

The pictures, kinds of LR and methods are those of `ordinary.py`; without networks it takes the default pair. Writes
results/ordinary_net.json. The original pictures have a row as well: what they show by chance is no net.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np

from esrgan_deploy.errors import EsrganError
from esrgan_deploy.images import read_image
from esrgan_deploy.models import DEFAULT, MODELS
from esrgan_export.bicubic import downscale
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.image_types import Uint8Image
from ordinary import SEED, middle
from ordinary_rows import ALPHAS, ANIMEVIDEO, BICUBIC, SCALE, baselines, check_names, given_rows
from side_by_side import save

TILE, BORDER = 32, 8
ONE_PERIOD = np.array([1, 2, 2, 2, 1], np.float32) / 8
"""A mean over pixels in which each of the four phases weighs the same: it takes away all but the pattern."""


def net(picture: Uint8Image) -> float:
    """The strength of what repeats every `SCALE` pixels, in code values of 255.

    In each tile the means of the 16 phases of the picture less its local mean are taken; the result is their standard
    deviation, as a mean over the tiles. A pattern of that period and of standard deviation s gives s.
    """
    grey = picture.mean(axis=2, dtype=np.float32)
    detail = grey - cv2.sepFilter2D(grey, -1, ONE_PERIOD, ONE_PERIOD)
    height, width = detail.shape
    tiles = [
        detail[top : top + TILE, left : left + TILE]
        for top in range(BORDER, height - BORDER - TILE + 1, TILE)
        for left in range(BORDER, width - BORDER - TILE + 1, TILE)
    ]
    phases = TILE // SCALE
    return fmean(float(tile.reshape(phases, SCALE, phases, SCALE).mean(axis=(0, 2)).std()) for tile in tiles)


def main(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    bundled = MODELS[DEFAULT]
    texts = args.networks or [f"{DEFAULT}={bundled.psnr},{bundled.gan}"]
    rows = [row for row in baselines() if row.name in (BICUBIC, ANIMEVIDEO)]
    rows += [row for text in texts for row in given_rows(text, args.alphas)]
    check_names(rows)
    pictures = {path.stem: middle(read_image(path).rgb) for path in sorted(args.photos.glob("*.png"))}
    clean = [downscale(hr, SCALE) for hr in pictures.values()]
    print(f"{'net, of 255':34} " + " ".join(f"{kind:>8}" for kind in DEGRADATIONS))
    original = fmean(map(net, pictures.values()))
    found = {"original": dict.fromkeys(DEGRADATIONS, original)}
    for row in rows:
        enlarge = row.open()
        found[row.name] = {
            kind: fmean(net(enlarge(damage.apply(lr, SEED))) for lr in clean) for kind, damage in DEGRADATIONS.items()
        }
    for name, values in found.items():
        print(f"{name:34} " + " ".join(f"{values[kind]:8.2f}" for kind in DEGRADATIONS))
    save("ordinary_net", {"pictures": sorted(pictures), "rows": found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of PNG files")
    parser.add_argument("networks", nargs="*", metavar="NAME=FILES", help="NAME=CHECKPOINT or NAME=PSNR,GAN")
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS, metavar="A", help="of pairs")
    try:
        main(parser.parse_intermixed_args())
    except EsrganError as error:
        sys.exit(f"ordinary_net.py: {error}")
