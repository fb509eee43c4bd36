"""Compare an exported model with the network that it was made from, on photos. Every export does this."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch

from esrgan_deploy.errors import FidelityError, ModelError
from esrgan_deploy.tiling import Axis, TileGrid
from esrgan_export.emulate import Emulator
from esrgan_export.image_types import FloatImage
from esrgan_export.metrics import psnr
from esrgan_export.networks import Network
from esrgan_export.photos import load_photos
from esrgan_export.precision import overflowing_nodes, to_precision, underflowing_nodes
from esrgan_export.verification_report import SEAM_LIMIT, PhotoResult, Seam, VerificationReport

THRESHOLDS_DB = {"fp32": 80.0, "fp16": 50.0, "bf16": 40.0, "int8": 34.0}
"""PSNR to the fp32 network that the worst photo must reach."""

OVERLAPS = (8, 16, 24, 32, 48)
"""Overlaps of tiles in input pixels, tried in this order. Half of a photo, 64 pixels, has no room for more."""

MIDDLE = slice(16, 80)
"""Rows of the bundled photos that are used. All 96 give the same figures, and a network of 23 blocks takes seconds."""

ProgressMessage = Callable[[str], None]
"""Called with one line before each long step."""


@dataclass(frozen=True)
class Reference:
    """The results of a network on the photos in fp32, with which exports of every precision are compared."""

    model: onnx.ModelProto
    """The network as fp32 ONNX."""
    photos: Mapping[str, FloatImage]
    outputs: Mapping[str, FloatImage]
    """The results of PyTorch, clamped."""
    onnx_results: tuple[PhotoResult, ...]
    """`model` compared with PyTorch."""
    peaks: Mapping[str, float]
    """Largest absolute value of each tensor of `model`."""
    layer_peaks: Mapping[str, float]
    """Largest absolute value of each layer's output, by node name."""
    seams: tuple[Seam, ...]


def measure(
    network: Network,
    model: onnx.ModelProto,
    photos: Mapping[str, npt.NDArray[np.uint8]] | None = None,
    progress: ProgressMessage = lambda _: None,
) -> Reference:
    """Run `network` and its fp32 `model` on the photos, and measure the seams between tiles.

    Args:
        network: in fp32, on the CPU; is put into evaluation mode.
        model: `export_onnx(network, ...)`.
        photos: uint8 RGB (H, W, 3) by name, H and W multiples of `network.multiple_of`; None: those of this package.
        progress: called with one line before each long step.

    Raises:
        ModelError: the network itself gives NaNs or infinities.
    """
    photos = photos or {name: photo[MIDDLE] for name, photo in load_photos().items()}
    frames = {name: photo.astype(np.float32) / np.float32(255) for name, photo in photos.items()}
    progress(f"PyTorch fp32 on {len(frames)} photos")
    outputs = {name: run_network(network, frame) for name, frame in frames.items()}
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            raise ModelError(f"the network gives NaN or infinity on the photo '{name}' in fp32; its weights are broken")
    progress("ONNX fp32 on the same photos")
    emulator = Emulator(model, track_peaks=True)
    results = {name: emulator.run(frame) for name, frame in frames.items()}
    wholes = {name: output for name, (output, _) in results.items()}
    return Reference(
        model=model,
        photos=frames,
        outputs={name: output.clip(0, 1) for name, output in outputs.items()},
        onnx_results=tuple(_compare(name, outputs[name].clip(0, 1), *results[name]) for name in frames),
        peaks=emulator.peaks(),
        layer_peaks=emulator.layer_peaks(),
        seams=_measure_seams(Emulator(model), frames, wholes, network, progress),
    )


def verify(model: onnx.ModelProto, precision: str, reference: Reference, kept: Mapping[str, str]) -> VerificationReport:
    """Compare `model` with PyTorch in fp32 on every photo. The report says whether it passed; nothing is raised.

    Args:
        model: in `precision`. For fp32 the results that are in `reference` already are used.
        precision: "fp32", "fp16", "bf16" or "int8".
        reference: of the network that `model` was made from.
        kept: layers that stayed in fp32, each with the reason.
    """
    results = reference.onnx_results
    if precision != "fp32":
        emulator = Emulator(model)
        results = tuple(
            _compare(name, reference.outputs[name], *emulator.run(frame)) for name, frame in reference.photos.items()
        )
    return VerificationReport(
        precision, THRESHOLDS_DB[precision], results, reference.layer_peaks, kept_fp32=kept, seams=reference.seams
    )


def convert_verified(
    reference: Reference,
    precision: str,
    label: str,
    progress: ProgressMessage = lambda _: None,
    other_alphas: Mapping[float, Reference] | None = None,
) -> tuple[onnx.ModelProto, VerificationReport]:
    """Convert the model to `precision`, and verify it.

    In fp16, layers that would overflow stay in fp32. If the result is not exact enough, those that underflow stay in
    fp32 as well.

    Args:
        reference: from `measure`.
        precision: "fp32", "fp16" or "bf16".
        label: name of the artefact in error messages.
        progress: called with one line before each long step.
        other_alphas: for a model whose alpha can be set later, the network at other alphas. The model must be exact at
            each of them too, and the report has the widest seams of them all.

    Returns:
        The converted model, and the report of the verification that it passed.

    Raises:
        FidelityError: the model differs too much from the network.
    """
    labels = [label, *(f"{label} at alpha {alpha:g}" for alpha in other_alphas or {})]
    references = [reference, *(other_alphas or {}).values()]
    kept = _merged(overflowing_nodes, references) if precision == "fp16" else {}
    if precision != "fp32":
        progress(f"ONNX {precision} on the same photos")
    model, reports = _converted(references, precision, kept)
    if precision == "fp16" and not all(report.passed for report in reports):
        more = {**_merged(underflowing_nodes, references), **kept}
        if len(more) > len(kept):
            worst = min(report.worst.psnr_db for report in reports)
            progress(f"{worst:.1f} dB is too little: once more with {len(more)} layers in fp32")
            model, reports = _converted(references, precision, more)
    report, *_ = (passed(report, label) for report, label in zip(reports, labels, strict=True))
    widest = max(references, key=lambda each: (each.seams[-1].overlap, each.seams[-1].error))
    return model, dataclasses.replace(report, seams=widest.seams)


def _merged(
    find: Callable[[onnx.ModelProto, Mapping[str, float]], Mapping[str, str]], references: Sequence[Reference]
) -> dict[str, str]:
    """The layers that `find` names for any of the networks, with the reason of the first network that has one."""
    return {name: reason for each in reversed(references) for name, reason in find(each.model, each.peaks).items()}


def _converted(
    references: Sequence[Reference], precision: str, kept: Mapping[str, str]
) -> tuple[onnx.ModelProto, list[VerificationReport]]:
    """The first network in `precision`, and the reports of all of them."""
    models = [each.model if precision == "fp32" else to_precision(each.model, precision, kept) for each in references]
    reports = [verify(model, precision, each, kept) for model, each in zip(models, references, strict=True)]
    return models[0], reports


def passed(report: VerificationReport, label: str) -> VerificationReport:
    """Return `report` if the artefact passed.

    Raises:
        FidelityError: it did not pass; the message calls the artefact `label`.
    """
    if report.passed:
        return report
    worst = report.worst
    bad = sum(result.non_finite for result in report.photos)
    found = f"{bad} NaNs and infinities" if bad else f"{worst.psnr_db:.1f} dB on the photo '{worst.photo}'"
    remedy = {
        "fp32": "report it",
        "fp16": "export it with --bf16 or as fp32",
        "bf16": "export it with --fp16 or as fp32",
        "int8": "calibrate on pictures more like those that will be upscaled, fine-tune it with esrgan-train qat, "
        "or export it with --fp16",
    }
    raise FidelityError(
        f"{label}: {report.precision} gives {found}, {report.threshold_db:g} dB against fp32 are required; "
        f"nothing was written; {remedy[report.precision]}"
    )


def run_network(network: Network, frame: FloatImage) -> FloatImage:
    """Upscale one image in PyTorch: (H, W, 3) -> (H * scale, W * scale, 3), not clamped."""
    planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        output: FloatImage = network.eval()(planes)[0].numpy().transpose(1, 2, 0)
    return output


def _compare(photo: str, expected: FloatImage, output: FloatImage, non_finite: int) -> PhotoResult:
    return PhotoResult(
        photo,
        psnr_db=psnr(expected, output),
        max_abs_error=float(np.abs(expected - output).max()),
        changed_8bit=float(np.mean(np.rint(expected * 255) != np.rint(output * 255))),
        non_finite=non_finite,
    )


def _measure_seams(
    emulator: Emulator,
    frames: Mapping[str, FloatImage],
    wholes: Mapping[str, FloatImage],
    network: Network,
    progress: ProgressMessage,
) -> tuple[Seam, ...]:
    """Seam errors from the smallest overlap up to the first that is invisible on every photo.

    Each photo is cut into a left and a right tile. The photo whose seam was visible last is tried first, so that a
    network with a wide receptive field takes one photo per overlap instead of all.
    """
    order = list(frames)
    seams: list[Seam] = []
    narrowest = min(frame.shape[1] for frame in frames.values())
    for overlap in (overlap for overlap in OVERLAPS if 2 * overlap < narrowest):
        progress(f"seam with an overlap of {overlap} px")
        errors: dict[str, float] = {}
        for name in order:
            errors[name] = _seam_error(emulator, frames[name], wholes[name], overlap, network)
            if errors[name] >= SEAM_LIMIT:
                break
        worst = max(errors, key=lambda name: errors[name])
        order.sort(key=lambda name: name != worst)
        seams.append(Seam(overlap, errors[worst], worst))
        if errors[worst] < SEAM_LIMIT:
            break
    return tuple(seams)


def _seam_error(emulator: Emulator, frame: FloatImage, whole: FloatImage, overlap: int, network: Network) -> float:
    height, width = frame.shape[:2]
    multiple = network.multiple_of
    tile = -(-(width // 2 + overlap) // multiple) * multiple
    grid = TileGrid(Axis.cover(height, height, overlap, multiple), Axis.cover(width, tile, overlap, multiple))
    joined = grid.join([emulator.run(tile)[0] for tile in grid.cut(frame)], network.scale)
    return float(np.abs(joined - whole).max())
