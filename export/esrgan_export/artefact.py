"""One network becomes one verified ONNX file, with its report beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from esrgan_deploy.atomic import replacing
from esrgan_deploy.model import ModelInfo
from esrgan_export.networks import Network
from esrgan_export.report import Report
from esrgan_export.to_onnx import export_onnx, set_info
from esrgan_export.verify import Progress, convert_verified, measure


def export_artefact(
    network: Network,
    info: ModelInfo,
    path: Path,
    *,
    dynamic_batch: bool = False,
    static_shape: tuple[int, int] | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Export `network` in `info.precision`, verify it, and write `path` and `path` with the suffix .report.json.

    Args:
        network: in fp32, on the CPU; is put into evaluation mode.
        info: becomes the metadata; `overlap` is replaced by the measured one.
        path: ends in .onnx.
        dynamic_batch: see `export_onnx`.
        static_shape: see `export_onnx`.
        progress: called with one line before each long step.

    Raises:
        FidelityError: the artefact differs too much from the network; nothing was written.
        ModelError: the network itself gives NaNs.
        OptionError: `static_shape` does not fit the network.
        OutputError: `path` cannot be written.
    """
    progress("tracing the network")
    fp32 = export_onnx(network, info, dynamic_batch=dynamic_batch, static_shape=static_shape)
    reference = measure(network, fp32, progress=progress)
    model, report = convert_verified(reference, info.precision, path.name, progress)
    write_artefact(model, report, info, path)
    return report


def write_artefact(model: onnx.ModelProto, report: Report, info: ModelInfo, path: Path) -> None:
    """Write `model`, with `info` and the overlap of `report` as metadata, and the report beside it; both or neither.

    Raises:
        OutputError: `path` cannot be written.
    """
    set_info(model, dataclasses.replace(info, precision=report.precision, overlap=report.overlap))
    with replacing(report_path(path)) as report_file, replacing(path) as model_file:
        model_file.write_bytes(model.SerializeToString())
        report_file.write_text(report.to_json(), encoding="utf-8")


def report_path(path: Path) -> Path:
    """Where the report of the artefact `path` is: x.onnx -> x.report.json."""
    return path.with_suffix(".report.json")
