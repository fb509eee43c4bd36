r"""The figures and pictures of the card of compact-clean: from the weights, the logs and the validation photos.

    python benchmarks/studies/compact_card.py PHOTOS --psnr-run DIR --gan-run DIR \
        --st-lpips-weights alex_shift_tolerant.pth

PHOTOS: see validation_photos.py. The runs are the folders that `esrgan-train compact/psnr` and `compact/gan` made.
Writes results/compact.json, ../docs/compact/curves.png and ../docs/compact/crops.jpg, and prints the card's tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt

from esrgan_bench.report import provenance
from esrgan_deploy.models import MODELS
from esrgan_deploy.system.files import write_json
from esrgan_export.bicubic import upscale
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.interpolate import interpolate
from esrgan_export.metrics.perceptual_distance import PerceptualDistance
from esrgan_export.metrics.st_lpips import load_st_lpips
from esrgan_train.data.cache import Pair, open_pairs
from esrgan_train.run_log import read_log
from esrgan_train.validate import METRICS, validate
from side_by_side import RESULTS

MODEL = MODELS["compact-clean"]
Picture = npt.NDArray[np.uint8]
PICTURES = Path(__file__).parents[2] / "docs" / "compact"
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CROPS = {"astronaut": (30, 200), "coffee": (90, 250), "motorcycle": (180, 330), "chelsea": (80, 150)}
"""Row and column of the upper left corner of a square of CROP pixels."""
CROP = 144


def main() -> None:
    """Measure, draw, print."""
    args = _arguments()
    pairs = open_pairs(args.photos, 4)
    distance = load_st_lpips(args.st_lpips_weights)
    outputs = {"bicubic": {pair.name: upscale(pair.lr, 4) for pair in pairs}}
    psnr, gan = load_checkpoint(MODEL.psnr), load_checkpoint(MODEL.gan)
    for alpha in ALPHAS:
        outputs[f"alpha {alpha:g}"] = validate(interpolate(psnr, gan, alpha), pairs, (), 1024, samples=len(pairs))[1]
    scores = {method: _score(pictures, pairs, distance) for method, pictures in outputs.items()}
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_curves(args.psnr_run, args.gan_run, PICTURES / "curves.png")
    draw_crops(outputs, pairs, PICTURES / "crops.jpg")
    write_json(RESULTS / "compact.json", provenance("python benchmarks/studies/compact_card.py") | {"scores": scores})
    print_tables(scores, [pair.name for pair in pairs])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    for run in ("--psnr-run", "--gan-run", "--st-lpips-weights"):
        parser.add_argument(run, type=Path, required=True)
    return parser.parse_args()


def _score(
    pictures: Mapping[str, Picture], pairs: Sequence[Pair], distance: PerceptualDistance
) -> dict[str, dict[str, float]]:
    """Value by metric and picture."""
    metrics: dict[str, Any] = {**METRICS, "st-lpips": distance}
    return {
        name: {pair.name: metric(pictures[pair.name], pair.hr, 4) for pair in pairs} for name, metric in metrics.items()
    }


def print_tables(scores: dict[str, dict[str, dict[str, float]]], names: Sequence[str]) -> None:
    """Means of every method; then PSNR-Y of every photograph."""
    print("| | PSNR-Y, dB | SSIM-Y | NIQE | ST-LPIPS |\n|---|---|---|---|---|")
    for method, metrics in scores.items():
        mean = {name: fmean(values.values()) for name, values in metrics.items()}
        print(f"| {method} | {mean['psnr']:.2f} | {mean['ssim']:.4f} | {mean['niqe']:.2f} | {mean['st-lpips']:.3f} |")
    print("\n| photo | bicubic | PSNR net | gain | GAN | ST-LPIPS: PSNR net | GAN |\n|---|---|---|---|---|---|---|")
    for name in names:
        bicubic, psnr, gan = (scores[method]["psnr"][name] for method in ("bicubic", "alpha 0", "alpha 1"))
        smooth, sharp = (scores[method]["st-lpips"][name] for method in ("alpha 0", "alpha 1"))
        label = Path(name).stem
        print(
            f"| {label} | {bicubic:.2f} | {psnr:.2f} | +{psnr - bicubic:.2f} | {gan:.2f} | {smooth:.3f} | {sharp:.3f} |"
        )


def draw_curves(psnr_run: Path, gan_run: Path, path: Path) -> None:
    """Loss and validation of both runs against the step."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), constrained_layout=True)
    for row, run, label in zip(axes, (psnr_run, gan_run), ("compact/psnr", "compact/gan"), strict=True):
        lines = read_log(run / "log.jsonl")
        train = [line for line in lines if line["what"] == "train"]
        checks = [line for line in lines if line["what"] == "validation"]
        for name in ("l1", "perceptual", "adversarial", "discriminator"):
            if name in train[0]:
                row[0].plot([line["step"] for line in train], [line[name] for line in train], label=name, linewidth=1)
        row[0].set(title=f"{label}: losses, as weighted", yscale="log", xlabel="step")
        row[0].legend()
        steps = [line["step"] for line in checks]
        row[1].plot(steps, [line["psnr"] for line in checks], "o-", label="PSNR-Y, dB")
        row[1].set(title=f"{label}: validation (left: PSNR-Y, right: NIQE)", xlabel="step")
        right = row[1].twinx()
        right.plot(steps, [line["niqe"] for line in checks], "s--", color="tab:red", label="NIQE")
    figure.savefig(path, dpi=80)


def draw_crops(outputs: Mapping[str, Mapping[str, Picture]], pairs: Sequence[Pair], path: Path) -> None:
    """Squares of some photographs: bicubic, PSNR net, alpha 0.8, GAN, original."""
    columns = [*(outputs[name] for name in ("bicubic", "alpha 0", "alpha 0.8", "alpha 1"))]
    columns.append({pair.name: pair.hr for pair in pairs})
    rows = []
    for name, (top, left) in CROPS.items():
        part = np.s_[top : top + CROP, left : left + CROP]
        rows.append(np.hstack([_twice(pictures[f"{name}.png"][part]) for pictures in columns]))
    cv2.imwrite(str(path), np.vstack(rows)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def _twice(square: Picture) -> Picture:
    return square.repeat(2, axis=0).repeat(2, axis=1)


if __name__ == "__main__":
    main()
