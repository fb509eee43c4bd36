"""The measures of quality: how each is computed for one SR picture, and how its mean over a data set is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from esrgan_deploy.errors import BackendMissingError, MediaError, OptionError
from esrgan_export.evaluation.ma_scores import MaScorer
from esrgan_export.image_types import Uint8Image
from esrgan_export.metrics import (
    mean_psnr,
    niqe,
    perceptual_index,
    pirm_mse,
    pirm_rmse,
    psnr_rgb,
    psnr_y,
    ssim_rgb,
    ssim_y,
)
from esrgan_export.metrics.luma import shaved
from esrgan_export.metrics.rmse import PIRM_SHAVE

if TYPE_CHECKING:
    from esrgan_export.metrics.perceptual_distance import PerceptualDistance


@dataclass(frozen=True)
class MethodResult:
    """The SR picture that one method made, beside the HR picture."""

    method: str
    picture: str
    sr: Uint8Image
    hr: Uint8Image
    scale: int
    scores: dict[str, float] = field(default_factory=dict)
    """The scores computed so far, by key of the measure."""


@dataclass(frozen=True)
class Measure:
    """One column of the table."""

    key: str
    """The name in `--metrics` and in JSON."""
    title: str
    decimals: int
    higher_is_better: bool
    score: Callable[[MethodResult], float]
    mean: Callable[[Sequence[float]], float] = fmean


@dataclass(frozen=True)
class Weights:
    """Files that some measures need."""

    lpips_heads: Path | None = None
    lpips_trunk: Path | None = None
    st_lpips: Path | None = None
    ma: MaScorer | None = None


def _rmse_of_set(values: Sequence[float]) -> float:
    return pirm_rmse([value**2 for value in values])


PLAIN = (
    Measure("psnr", "PSNR-Y", 2, True, lambda result: psnr_y(result.sr, result.hr, result.scale), mean_psnr),
    Measure("ssim", "SSIM-Y", 4, True, lambda result: ssim_y(result.sr, result.hr, result.scale)),
    Measure("psnr-rgb", "PSNR-RGB", 2, True, lambda result: psnr_rgb(result.sr, result.hr, result.scale), mean_psnr),
    Measure("ssim-rgb", "SSIM-RGB", 4, True, lambda result: ssim_rgb(result.sr, result.hr, result.scale)),
    Measure("rmse", "RMSE", 2, False, lambda result: math.sqrt(pirm_mse(result.sr, result.hr)), _rmse_of_set),
    Measure("niqe", "NIQE", 3, False, lambda result: niqe(result.sr, PIRM_SHAVE)),
)
"""Measures that need no file. The border that is shaved is the scale for PSNR, SSIM and LPIPS, and 4 pixels for RMSE,
NIQE and Ma, as in the PIRM challenge."""

NAMES = (*(measure.key for measure in PLAIN), "ma", "pi", "lpips", "st-lpips")


def build_measures(names: Sequence[str], weights: Weights) -> list[Measure]:
    """The measures called `names`, in the order of `NAMES`; "pi" adds niqe and ma, from which it is computed.

    Raises:
        BackendMissingError: PyTorch, which LPIPS needs, is not installed.
        ModelError: a file of weights cannot be used.
        OptionError: a file that a measure needs is not given.
    """
    wanted = {*names, *(("niqe", "ma") if "pi" in names else ())}
    measures = {measure.key: measure for measure in PLAIN}
    if "ma" in wanted:
        measures["ma"] = _ma(weights.ma)
        measures["pi"] = Measure("pi", "PI", 3, False, _perceptual_index)
    if "lpips" in wanted:
        measures["lpips"] = _lpips(weights.lpips_heads, weights.lpips_trunk)
    if "st-lpips" in wanted:
        measures["st-lpips"] = _st_lpips(weights.st_lpips)
    return [measures[name] for name in NAMES if name in wanted]


def score(result: MethodResult, measures: Sequence[Measure]) -> Mapping[str, float]:
    """Compute all measures of one result; returns them by key.

    Raises:
        MediaError: a measure cannot be computed for this picture; the message names method and picture.
    """
    for measure in measures:
        try:
            result.scores[measure.key] = measure.score(result)
        except MediaError as error:
            raise MediaError(f"{result.method}, {result.picture}: {error}") from error
    return result.scores


def _perceptual_index(result: MethodResult) -> float:
    return perceptual_index(result.scores["ma"], result.scores["niqe"])


def _ma(scorer: MaScorer | None) -> Measure:
    if scorer is None:
        raise OptionError(
            "ma and pi need the scores of Ma et al., whose model is in no Python package: "
            "--ma MODULE:FUNCTION or --ma SCORES.csv"
        )
    return Measure(
        "ma", "Ma", 3, True, lambda result: scorer(result.method, result.picture, shaved(result.sr, PIRM_SHAVE))
    )


def _lpips(heads: Path | None, trunk: Path | None) -> Measure:
    if heads is None or trunk is None:
        raise OptionError("lpips needs its weights: --lpips-heads alex.pth --lpips-trunk alexnet-owt-7be5be79.pth")
    _check_torch("lpips")
    from esrgan_export.metrics.lpips import load_lpips

    return _perceptual("lpips", "LPIPS", load_lpips(heads, trunk))


def _st_lpips(path: Path | None) -> Measure:
    if path is None:
        raise OptionError("st-lpips needs its weights: --st-lpips-weights alex_shift_tolerant.pth")
    _check_torch("st-lpips")
    from esrgan_export.metrics.st_lpips import load_st_lpips

    return _perceptual("st-lpips", "ST-LPIPS", load_st_lpips(path))


def _perceptual(key: str, title: str, distance: PerceptualDistance) -> Measure:
    return Measure(key, title, 4, False, lambda result: distance(result.sr, result.hr, result.scale))


def _check_torch(name: str) -> None:
    from importlib.util import find_spec

    if not find_spec("torch"):
        raise BackendMissingError(f"{name} needs torch: pip install 'esrgan-deploy[export]'")
