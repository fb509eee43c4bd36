"""Validation: measure a network on whole pictures, which are tiled as the runtime tiles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from esrgan_deploy import Upscaler
from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.images import StillImage, write_image
from esrgan_export.bicubic import upscale
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics import mean_psnr, niqe, psnr_y, ssim_y
from esrgan_export.network_session import NetworkSession
from esrgan_export.networks import Network
from esrgan_train.data.cache import Pair

Scores = dict[str, dict[str, float]]
"""metric -> picture -> value."""

TILE_OVERLAP = 16  # LR pixels
_STEM_BYTES = 200
"""Of a picture's name, that the name of its sample keeps: so the longest one still fits when the number is added."""

METRICS: Mapping[str, Callable[[Uint8Image, Uint8Image, int], float]] = {
    "psnr": psnr_y,
    "ssim": ssim_y,
    "niqe": lambda sr, hr, shave: niqe(sr, shave),
}
"""PSNR and SSIM are computed on Y with a border of `scale` pixels shaved, as in papers."""


def validate(
    network: Network, pairs: Sequence[Pair], metrics: Sequence[str], tile: int, samples: int = 0
) -> tuple[Scores, dict[str, Uint8Image]]:
    """Upscale the LR pictures and compare the results with HR.

    Args:
        network: in fp32; its mode (training or evaluation) is restored.
        pairs: validation pictures.
        metrics: keys of `METRICS`.
        tile: side of a tile in LR pixels; larger pictures are cut.
        samples: number of SR pictures to return.

    Returns:
        The scores, and the first `samples` SR pictures by name.

    Raises:
        MediaError: see `score`.
    """
    scores: Scores = {metric: {} for metric in metrics}
    kept: dict[str, Uint8Image] = {}
    with Upscaler(NetworkSession(network), tile=tile, overlap=TILE_OVERLAP) as upscaler:
        enlarged = upscaler.map(np.array(pair.lr) for pair in pairs)
        for pair, sr in zip(pairs, enlarged, strict=True):
            score(scores, pair, sr, network.scale)
            if len(kept) < samples:
                kept[pair.name] = sr
    return scores, kept


def bicubic_baseline(pairs: Sequence[Pair], metrics: Sequence[str], scale: int) -> Scores:
    """The scores of MATLAB's bicubic, which every network has to beat.

    Raises:
        MediaError: see `score`.
    """
    scores: Scores = {metric: {} for metric in metrics}
    for pair in pairs:
        score(scores, pair, upscale(pair.lr, scale), scale)
    return scores


def score(scores: Scores, pair: Pair, sr: Uint8Image, scale: int) -> None:
    """Add every metric of one picture to `scores`.

    Raises:
        MediaError: the picture is too small for a metric.
    """
    for metric, values in scores.items():
        try:
            values[pair.name] = METRICS[metric](sr, pair.hr, scale)
        except (ValueError, MediaError) as error:
            raise MediaError(
                f"validation picture {pair.name}: {error}; remove it, or change validation.metrics"
            ) from error


def means(scores: Scores) -> dict[str, float]:
    """Mean over the pictures, by metric. See `mean_psnr` for pictures that are reproduced exactly."""
    return {
        metric: mean_psnr(list(values.values())) if metric == "psnr" else fmean(values.values())
        for metric, values in scores.items()
    }


def save_samples(samples: Mapping[str, Uint8Image], folder: Path) -> None:
    """Write the pictures as PNG, named after their number and their originals.

    Raises:
        OutputError: the disk is full, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; make room, or name another with -o") from error
    for number, (name, picture) in enumerate(samples.items()):
        stem = Path(name).stem.encode(errors="ignore")[:_STEM_BYTES].decode(errors="ignore")
        write_image(folder / f"{number}-{stem}.png", StillImage(picture))
