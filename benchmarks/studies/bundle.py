r"""Make all files of a bundled model from two checkpoints: the same checkpoints and pictures give the same bytes.

    python benchmarks/studies/bundle.py NAME PSNR GAN --calibrate DIR [-o DIR]

NAME, its alpha and the beginning of its files' names are an entry of the table in `esrgan_deploy.models`, into whose
folder the files are written, and blends of the same pair at another alpha are removed from there. DIR holds pictures
like those that will be upscaled, for INT8.

The checkpoints are stored in 16 bits, which halves them; everything else is made of the stored ones, so that
`--alpha`, which reads them, gives an export's weights bit for bit. What the rounding costs is printed.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch

from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.errors import EsrganError, FidelityError, OptionError
from esrgan_deploy.models import MODELS, BundledModel
from esrgan_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from esrgan_export.cli import export
from esrgan_export.interpolate import interpolate, relatedness
from esrgan_export.metrics import psnr
from esrgan_export.photos import load_photos

LEAST_DB = 60.0
"""Between a trained network and the stored one, on each photo: rounding to 8 bits alone costs more than this."""


def main(args: argparse.Namespace) -> int:
    """Store both checkpoints; export their blend in fp32 and INT8. Returns the exit code."""
    if args.name not in MODELS:
        raise OptionError(f"'{args.name}' is not in the table of esrgan_deploy.models: {', '.join(MODELS)}")
    model, folder = MODELS[args.name], args.output or MODELS[args.name].onnx.parent
    store_pair(load_checkpoint(args.psnr), load_checkpoint(args.gan), folder / model.psnr.name, folder / model.gan.name)
    for old in folder.glob(f"{model.stem}_x{model.scale}_a*"):
        old.unlink()
    export_pair = ["--psnr", str(folder / model.psnr.name), "--gan", str(folder / model.gan.name)]
    common = [*export_pair, "--alpha", repr(model.alpha), "--name", model.stem, "-o", str(folder)]
    for extra in (["--refit"], ["--int8", "--calibrate", str(args.calibrate)]):
        if code := export.main([*common, *extra]):
            return code
    endpoints_path(folder / model.onnx.name).unlink()  # the checkpoints say the same; --refit has measured both ends
    print_sizes(model, folder)
    return 0


def store_pair(psnr_end: Checkpoint, gan_end: Checkpoint, psnr_path: Path, gan_path: Path) -> None:
    """Write both networks in 16 bits; what their files say of their parents stays true.

    Raises:
        FidelityError: a picture of a stored network differs by more than `LEAST_DB`.
        ModelError: they are no pair, by their networks or by the parents that they name.
    """
    interpolate(psnr_end, gan_end, 0.5)  # checks that they are a pair
    found = relatedness(psnr_end, gan_end)
    print(f"{psnr_end.path.name} and {gan_end.path.name}: {found.lineage}, similarity {found.similarity:.3f}")
    store(psnr_end, psnr_path, psnr_end.parent_sha256)
    parent = load_checkpoint(psnr_path).sha256 if found.lineage == "parent" else gan_end.parent_sha256
    store(gan_end, gan_path, parent)


def store(trained: Checkpoint, path: Path, parent_sha256: str | None) -> None:
    """Write a checkpoint in 16 bits, and compare the pictures of what was stored with those of what was trained."""
    save_checkpoint(copy.deepcopy(trained.network).half(), path, parent_sha256, trained.kind)
    stored = load_checkpoint(path).network
    decibels = []
    with torch.inference_mode():
        for photo in load_photos().values():
            frame = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
            pictures = [network(frame).clamp(0, 1).numpy() for network in (trained.network, stored)]
            decibels.append(psnr(*pictures))
    print(f"{path.name}: {path.stat().st_size:,} bytes, {min(decibels):.1f} dB from {trained.path.name} at worst")
    if min(decibels) < LEAST_DB:
        raise FidelityError(f"{trained.path}: loses too much in 16 bits: {min(decibels):.1f} dB, below {LEAST_DB:g}")


def print_sizes(model: BundledModel, folder: Path) -> None:
    """What the package grows by."""
    files = sorted(folder.glob(f"{model.stem}_*"))
    for file in files:
        print(f"{file.stat().st_size:>10,}  {file.name}")
    print(f"{sum(file.stat().st_size for file in files):>10,}  in all")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the model, as in the table")
    parser.add_argument("psnr", type=Path, help="trained checkpoint, alpha 0")
    parser.add_argument("gan", type=Path, help="trained checkpoint, alpha 1")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="DIR", help="pictures for INT8")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder, if another than the package's own")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main(_arguments()))
    except EsrganError as error:
        sys.exit(f"bundle.py: {error}")
