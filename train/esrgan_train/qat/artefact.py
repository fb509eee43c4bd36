"""Make a fine-tuned INT8 artefact of a network, and verify it against the network as it was before."""

from __future__ import annotations

from pathlib import Path

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.model import ModelInfo
from esrgan_export.artefact import write_artefact
from esrgan_export.networks import Network
from esrgan_export.quantise import prepare
from esrgan_export.quantise.calibration import load_crops
from esrgan_export.to_onnx import export_onnx
from esrgan_export.verification_report import VerificationReport
from esrgan_export.verify import ProgressMessage, measure, passed, verify
from esrgan_train.qat.crops import cut_crops
from esrgan_train.qat.state import check_no_state
from esrgan_train.qat.tune import QatSettings, check_batch, fine_tune


def tune_artefact(
    network: Network,
    info: ModelInfo,
    path: StrPath,
    pictures: StrPath,
    settings: QatSettings,
    *,
    resume: bool = False,
    progress: ProgressMessage = lambda _: None,
) -> VerificationReport:
    """Quantise `network`, fine-tune it, verify it, and write the ONNX file and its report.

    The state of an unfinished run is at `state_path(path)`. It is removed once these files are written.

    Args:
        network: in fp32, on the CPU; is put into evaluation mode.
        info: becomes the metadata, with the measured `overlap`. Its precision is "int8".
        path: the ONNX file; its folder exists.
        pictures: folder of pictures like those that will be upscaled; for calibration, training and validation.
        settings: see `QatSettings`.
        resume: go on after the state, if there is one.
        progress: called with one line before each long step.

    Raises:
        FidelityError: the artefact differs too much from the network; the state stays, and no other file was written.
        EsrganError: see `prepare`, `cut_crops` and `fine_tune`.
        KeyboardInterrupt: it was interrupted; the message says how to resume it.
    """
    path, pictures = as_path(path), as_path(pictures)
    state = state_path(path)
    check_no_state(state, resume)
    check_batch(settings)
    crops = cut_crops(pictures, settings.side, settings.seed)
    calibration = load_crops(pictures, network.multiple_of)
    progress("tracing the network")
    fp32 = export_onnx(network, info)
    prepared = prepare(network, fp32, calibration, progress)
    tuned = fine_tune(prepared, crops, settings, state, resume=resume, progress=progress)
    reference = measure(network, fp32, progress=progress)
    progress("ONNX int8 on the photos")
    model = tuned.quantised()
    report = passed(verify(model, "int8", reference, tuned.kept), path.name)
    write_artefact(model, report, info, path, None)
    state.unlink(missing_ok=True)
    return report


def state_path(path: Path) -> Path:
    """Where the state of the run that makes the artefact `path` is saved: x.onnx -> x.qat.pt."""
    return path.with_suffix(".qat.pt")
