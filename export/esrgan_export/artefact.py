"""One network becomes one verified ONNX file, with its report beside it, and what it needs to be turned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import onnx
from torch import Tensor

from esrgan_deploy.alpha import Endpoints, endpoints_path
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.system.files import replacing
from esrgan_export.checkpoint import Checkpoint
from esrgan_export.endpoints import check_refittable, make_endpoints, measure_endpoints
from esrgan_export.networks import Network
from esrgan_export.quantise import prepare
from esrgan_export.report import Report
from esrgan_export.to_onnx import export_onnx, set_info
from esrgan_export.verify import Progress, convert_verified, measure, passed, verify


def export_artefact(
    network: Network,
    info: ModelInfo,
    path: Path,
    *,
    dynamic_batch: bool = False,
    static_shape: tuple[int, int] | None = None,
    pair: tuple[Checkpoint, Checkpoint] | None = None,
    crops: Sequence[Tensor] = (),
    progress: Progress = lambda _: None,
) -> Report:
    """Export `network` in `info.precision`, verify it, and write `path`, its report, and its endpoints where asked for.

    Args:
        network: in fp32, on the CPU; is put into evaluation mode.
        info: becomes the metadata; `overlap` is replaced by the measured one.
        path: ends in .onnx.
        dynamic_batch: see `export_onnx`.
        static_shape: see `export_onnx`.
        pair: the PSNR network and the GAN that `network` was interpolated from: their weights are written to
            `endpoints_path(path)`, so that alpha can be set where the model runs; None: they are not.
        crops: what INT8 is calibrated on, see `quantise.calibration.load_crops`; needed for that precision only.
        progress: called with one line before each long step.

    Raises:
        FidelityError: the artefact differs too much from the network, or would after a refit; nothing was written.
        ModelError: the network itself gives NaNs.
        OptionError: `static_shape` does not fit the network, or its alpha cannot be set afterwards.
        OutputError: `path` cannot be written.
    """
    if pair:
        check_refittable(network, info.precision)
    progress("tracing the network")
    fp32 = export_onnx(network, info, dynamic_batch=dynamic_batch, static_shape=static_shape)
    reference = measure(network, fp32, progress=progress)
    if info.precision == "int8":
        prepared = prepare(network, fp32, crops, progress)
        progress("ONNX int8 on the photos")
        model = prepared.quantised()
        report = passed(verify(model, "int8", reference, prepared.kept), path.name)
        sensitivities = {each.group: each.psnr_db for each in prepared.sensitivities}
        report = dataclasses.replace(report, sensitivities_db=sensitivities)
    else:
        turned = measure_endpoints(*pair, fp32, info, progress) if pair else None
        model, report = convert_verified(reference, info.precision, path.name, progress, turned)
    write_artefact(model, report, info, path, make_endpoints(*pair, model, info) if pair else None)
    return report


def write_artefact(
    model: onnx.ModelProto, report: Report, info: ModelInfo, path: Path, endpoints: Endpoints | None
) -> None:
    """Write `model`, with `info` and the overlap of `report` as metadata, its report and its endpoints; all or none.

    Raises:
        OutputError: `path` cannot be written.
    """
    set_info(model, dataclasses.replace(info, precision=report.precision, overlap=report.overlap))
    with ExitStack() as files:
        report_file, model_file = (files.enter_context(replacing(target)) for target in (report_path(path), path))
        model_file.write_bytes(model.SerializeToString())
        report_file.write_text(report.to_json(), encoding="utf-8")
        if endpoints:
            files.enter_context(replacing(endpoints_path(path))).write_bytes(endpoints.to_bytes())


def report_path(path: Path) -> Path:
    """Where the report of the artefact `path` is: x.onnx -> x.report.json."""
    return path.with_suffix(".report.json")
