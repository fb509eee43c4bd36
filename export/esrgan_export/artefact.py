"""Make one verified ONNX file of a network, with its report and, for --refit, the weights of both endpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import onnx
from torch import Tensor

from esrgan_deploy.alpha import Endpoints, endpoints_path
from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.model import ModelInfo
from esrgan_deploy.onnx_write import set_info
from esrgan_deploy.system.files import check_writable, replacing
from esrgan_export.checkpoint import Checkpoint
from esrgan_export.endpoints import check_refittable, make_endpoints, measure_endpoints
from esrgan_export.networks import Network
from esrgan_export.quantise import prepare
from esrgan_export.to_onnx import export_onnx
from esrgan_export.verification_report import VerificationReport
from esrgan_export.verify import ProgressMessage, convert_verified, measure, passed, verify


def export_artefact(
    network: Network,
    info: ModelInfo,
    path: StrPath,
    *,
    dynamic_batch: bool = False,
    static_shape: tuple[int, int] | None = None,
    pair: tuple[Checkpoint, Checkpoint] | None = None,
    crops: Sequence[Tensor] = (),
    progress: ProgressMessage = lambda _: None,
) -> VerificationReport:
    """Export `network` in `info.precision`, verify it, and write the ONNX file and its report; also `pair`'s weights.

    Args:
        network: in fp32, on the CPU; is put into evaluation mode.
        info: becomes the metadata, with the measured `overlap`.
        path: the ONNX file to write.
        dynamic_batch: see `export_onnx`.
        static_shape: see `export_onnx`.
        pair: the PSNR network and the GAN that `network` was interpolated from: their weights are written to
            `endpoints_path(path)`, so that alpha can be set where the model runs; None: they are not.
        crops: what INT8 is calibrated on, from `quantise.calibration.load_crops`; not used for other precisions.
        progress: called with one line before each long step.

    Raises:
        FidelityError: the artefact differs too much from the network, or would after a refit; nothing was written.
        ModelError: the network itself gives NaNs.
        OptionError: `static_shape` does not fit the network, or alpha cannot be set afterwards for this network or
            precision.
        OutputError: `path` cannot be written.
    """
    path = as_path(path)
    for target in (path, report_path(path), *([endpoints_path(path)] if pair else [])):
        check_writable(target)
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
        other_alphas = measure_endpoints(*pair, fp32, info, progress) if pair else None
        model, report = convert_verified(reference, info.precision, path.name, progress, other_alphas)
    write_artefact(model, report, info, path, make_endpoints(*pair, model, info) if pair else None)
    return report


def write_artefact(
    model: onnx.ModelProto, report: VerificationReport, info: ModelInfo, path: Path, endpoints: Endpoints | None
) -> None:
    """Write `model`, with `info` and the overlap of `report` as metadata, its report and its endpoints: all or none.

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


def report_path(path: StrPath) -> Path:
    """Where the report of the artefact `path` is: x.onnx -> x.report.json."""
    return as_path(path).with_suffix(".report.json")
