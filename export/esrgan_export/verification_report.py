"""The result of a verification: a table for people, and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esrgan_deploy.cli.terminal import printable

FP16_LARGEST = 65504.0
SEAM_LIMIT = 1 / 255
"""A seam below one step of 8 bit is invisible."""
LAYERS_SHOWN = 3
KEPT_SHOWN = 10
"""Lines of the table at most; the JSON has all of them."""


@dataclass(frozen=True)
class PhotoResult:
    """One photo, upscaled by the artefact and by PyTorch in fp32; both are floats in [0, 1]."""

    photo: str
    psnr_db: float
    """Infinite where the two are equal."""
    max_abs_error: float
    changed_8bit: float
    """Share of the values that differ after rounding to 8 bit."""
    non_finite: int
    """NaNs and infinities before the final clamp."""


@dataclass(frozen=True)
class Seam:
    """Largest difference between a photo upscaled in two tiles and in one piece."""

    overlap: int
    """Input pixels that each tile has beyond its own part."""
    error: float
    """That of the first photo above `SEAM_LIMIT`, on which the search stops; otherwise the largest of all photos."""
    photo: str


@dataclass(frozen=True)
class VerificationReport:
    """The verification of one artefact."""

    precision: str
    threshold_db: float
    """The PSNR that the worst photo must reach."""
    photos: tuple[PhotoResult, ...]
    layer_peaks: Mapping[str, float]
    """Largest absolute output of each layer of the fp32 network, over the photos."""
    kept_fp32: Mapping[str, str]
    """Layers that compute in fp32 in an artefact of lower precision, each with the reason."""
    seams: tuple[Seam, ...]
    sensitivities_db: Mapping[str, float] = field(default_factory=dict)
    """PSNR if only one group of convolutions computes in int8, by group; empty if it was not measured."""

    @property
    def worst(self) -> PhotoResult:
        """The photo with the lowest PSNR."""
        return min(self.photos, key=lambda result: result.psnr_db)

    @property
    def mean_psnr_db(self) -> float:
        """The mean over the photos."""
        return sum(result.psnr_db for result in self.photos) / len(self.photos)

    @property
    def passed(self) -> bool:
        """The worst photo reaches the threshold, and no photo gave a NaN or an infinity."""
        return self.worst.psnr_db >= self.threshold_db and not any(result.non_finite for result in self.photos)

    @property
    def overlap(self) -> int:
        """The smallest overlap tried whose seam is invisible, or the largest tried."""
        return self.seams[-1].overlap

    @property
    def overlap_reached(self) -> bool:
        """The seam of `overlap` is below `SEAM_LIMIT`."""
        return self.seams[-1].error < SEAM_LIMIT

    def to_json(self) -> str:
        """All figures. A PSNR of null means equal pictures; headroom is 65504 / largest, null if a layer gives 0."""
        content: dict[str, Any] = {
            "precision": self.precision,
            "passed": self.passed,
            "threshold_db": self.threshold_db,
            "worst_psnr_db": _finite(self.worst.psnr_db),
            "mean_psnr_db": _finite(self.mean_psnr_db),
            "photos": [dataclasses.asdict(r) | {"psnr_db": _finite(r.psnr_db)} for r in self.photos],
            "kept_fp32": dict(self.kept_fp32),
            "sensitivities_db": {name: _finite(value) for name, value in self.sensitivities_db.items()},
            "overlap": self.overlap,
            "overlap_reached": self.overlap_reached,
            "seams": [dataclasses.asdict(seam) for seam in self.seams],
            "layers": {
                name: {"largest": peak, "headroom": FP16_LARGEST / peak if peak else None}
                for name, peak in self.layer_peaks.items()
            },
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def __str__(self) -> str:
        """A table of some 80 columns."""
        lines = [f"{'photo':<12}{'PSNR':>10}{'max error':>12}{'8 bit changed':>16}{'NaN/Inf':>10}"]
        lines += [
            f"{r.photo:<12}{r.psnr_db:>7.2f} dB{r.max_abs_error:>12.2e}{r.changed_8bit:>14.3%}  {r.non_finite:>10}"
            for r in self.photos
        ]
        verdict = "passed" if self.passed else "FAILED"
        lines.append(
            f"worst photo {self.worst.psnr_db:.2f} dB, {self.threshold_db:g} dB required of {self.precision}: {verdict}"
            f"; mean {self.mean_psnr_db:.2f} dB"
        )
        lines += [*self._layer_lines(), *self._seam_lines()]
        return "\n".join(lines)

    def _layer_lines(self) -> list[str]:
        largest = sorted(self.layer_peaks.items(), key=lambda item: -item[1])[:LAYERS_SHOWN]
        shown = ", ".join(
            f"{printable(name)} {peak:.3g} ({FP16_LARGEST / max(peak, 1e-9):.0f}x)" for name, peak in largest
        )
        lines = [f"largest activations (headroom to 65504)  {shown}"]
        if self.kept_fp32:
            lines.append(f"kept in fp32: {len(self.kept_fp32)} layers")
            lines += [
                f"  {printable(name)}: {printable(reason)}"
                for name, reason in list(self.kept_fp32.items())[:KEPT_SHOWN]
            ]
            lines += ["  ... (all are in the JSON)"] * (len(self.kept_fp32) > KEPT_SHOWN)
        return lines

    def _seam_lines(self) -> list[str]:
        tried = ", ".join(f"{seam.overlap} px {seam.error * 255:.2f}" for seam in self.seams)
        lines = [f"seam error by overlap, in steps of 8 bit  {tried}"]
        if self.overlap_reached:
            lines.append(f"overlap {self.overlap} px: the smallest tried with a seam below one step")
        else:
            lines.append(f"overlap {self.overlap} px: the largest tried; its seam is still above one step")
        return lines


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
