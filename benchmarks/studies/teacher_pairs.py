"""Make the pictures that the GAN end for ordinary material learns: what a large network makes of damaged crops.

python benchmarks/studies/teacher_pairs.py DIR --teacher MODEL.onnx [--set KEY=VALUE ...] [--pairs N]

LR crops are made as the recipe ordinary/psnr makes them (--set names its photographs, as for esrgan-train), and the
teacher enlarges each once. Writes DIR/clean, DIR/compressed and DIR/worse, for the three kinds of damage of that
recipe, with folders lr and teacher of the same names in each: data sets of the recipe ordinary/gan. Pair N is the same
in each run, and one that is there is not made again, so that a run may be ended, and gone on with, at any time.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from esrgan_deploy import Upscaler, open_session
from esrgan_deploy.system.files import replacing
from esrgan_export.image_types import Uint8Image
from esrgan_train.data.crops import Crops
from esrgan_train.recipe import read_recipe
from esrgan_train.run import open_source

SCALE, SIDE, MARGIN = 4, 64, 8
"""LR pixels of a crop, and around it: the teacher sees these as well, so that no border is in what it makes."""
KINDS = ("clean", "compressed", "worse")
"""The data sets of ordinary/psnr, in its order."""
ORDER = ("clean", "compressed", "worse", "compressed")
"""The kinds of pairs 0, 1, 2 ...: as often as they are in that recipe."""


def main(folder: Path, teacher: Path, settings: list[str], pairs: int) -> None:
    """Make the pairs that are not there yet."""
    data = read_recipe("ordinary/psnr", settings).data
    side = (SIDE + 2 * MARGIN) * SCALE
    crops = {
        kind: Crops([open_source(dataset, SCALE, data.cache)], side, SCALE, seed=1, textured_of=data.textured_of)
        for kind, dataset in zip(KINDS, data.train, strict=True)
    }
    upscaler = Upscaler(open_session(teacher))
    for kind in KINDS:
        for part in ("lr", "teacher"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
    for number in range(pairs) if pairs else itertools.count():
        kind = ORDER[number % len(ORDER)]
        name = f"{number:05d}.png"
        if not (folder / kind / "lr" / name).exists():
            lr = _picture(crops[kind][number].lr)
            write(folder / kind / "teacher" / name, _inner(upscaler.upscale(lr), SCALE))
            write(folder / kind / "lr" / name, _inner(lr, 1))


def write(path: Path, picture: Uint8Image) -> None:
    """Write an RGB picture as PNG, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def _inner(picture: Uint8Image, factor: int) -> Uint8Image:
    margin, side = MARGIN * factor, SIDE * factor
    return np.ascontiguousarray(picture[margin : margin + side, margin : margin + side])


def _picture(planes: Tensor) -> Uint8Image:
    return np.ascontiguousarray(planes.numpy().transpose(1, 2, 0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pairs are written")
    parser.add_argument("--teacher", type=Path, required=True, help="an x4 network as ONNX, for instance x4plus")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--pairs", type=int, default=0, help="how many; 0: until the run is ended")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.teacher, arguments.set, arguments.pairs)
