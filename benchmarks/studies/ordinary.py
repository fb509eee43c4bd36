"""PSNR-Y on ordinary material: clean, JPEG, soft and noisy, MPEG-4 and H.264 pictures, for any x4 checkpoints.

python benchmarks/studies/ordinary.py PHOTOS NAME=CHECKPOINT [NAME=CHECKPOINT ...]

PHOTOS is a folder of pictures that no checkpoint has seen, for instance what validation_photos.py writes. Each is cut
to its middle, made four times smaller as MATLAB does, damaged in five ways, and enlarged by bicubic and by each
checkpoint. Writes results/ordinary.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np

from esrgan_deploy import Upscaler
from esrgan_deploy.images import read_image
from esrgan_export.bicubic import downscale, upscale
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics.psnr import psnr_y
from esrgan_export.network_session import NetworkSession
from esrgan_train.data.video_frame import through_codec
from side_by_side import save

SCALE = 4
LARGEST = 384
"""Rows and columns of the middle that is used."""
Enlarge = Callable[[Uint8Image], Uint8Image]


def jpeg(picture: Uint8Image, quality: int) -> Uint8Image:
    """Through a JPEG with 4:2:0, as OpenCV and phones write it."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def noisy(picture: Uint8Image) -> Uint8Image:
    """Blurred by a Gaussian of 0.8 px, noise of 6 code values, JPEG 75."""
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    grain = np.random.default_rng(0).normal(0, 6, picture.shape)
    return jpeg(np.clip(np.rint(soft + grain), 0, 255).astype(np.uint8), 75)


DAMAGE: dict[str, Enlarge] = {
    "clean": lambda lr: lr,
    "jpeg60": lambda lr: jpeg(lr, 60),
    "noisy": noisy,
    "mpeg4_q6": lambda lr: through_codec([lr], "mpeg4", 6)[0],
    "h264_crf30": lambda lr: through_codec([lr], "h264", 30)[0],
}


def middle(picture: Uint8Image) -> Uint8Image:
    """The middle of a picture, of whole LR pixels."""
    height, width = (min(LARGEST, length) // SCALE * SCALE for length in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def main(photos: Path, checkpoints: dict[str, Path]) -> None:
    """Measure, print the table, write results/ordinary.json."""
    pictures = {path.stem: middle(read_image(path).rgb) for path in sorted(photos.glob("*.png"))}
    methods: dict[str, Enlarge] = {"bicubic": lambda lr: upscale(lr, SCALE)}
    for name, path in checkpoints.items():
        methods[name] = Upscaler(NetworkSession(load_checkpoint(path).network)).upscale
    print(f"{'PSNR-Y, dB':20} " + " ".join(f"{kind:>10}" for kind in DAMAGE))
    figures: dict[str, dict[str, float]] = {}
    for name, enlarge in methods.items():
        figures[name] = {
            kind: fmean(psnr_y(enlarge(damage(downscale(hr, SCALE))), hr, SCALE) for hr in pictures.values())
            for kind, damage in DAMAGE.items()
        }
        print(f"{name:20} " + " ".join(f"{value:10.2f}" for value in figures[name].values()), flush=True)
    save("ordinary", {"pictures": sorted(pictures), "psnr_y": figures})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of PNG files")
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT", help="x4 networks to compare")
    arguments = parser.parse_args()
    main(arguments.photos, {name: Path(path) for name, _, path in (c.partition("=") for c in arguments.checkpoints)})
