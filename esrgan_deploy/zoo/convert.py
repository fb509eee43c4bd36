"""The files of a model become the ONNX file that every backend runs, once, with a record of what it was made from."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.errors import BackendMissingError, EsrganError, ModelError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.files import replacing, write_json
from esrgan_deploy.watchdog import moved, waiting_outside
from esrgan_deploy.zoo.download import Progress, sha256_of
from esrgan_deploy.zoo.entry import FORMS

RECORD = "made.json"
RECORD_FORMAT = 1
EXPORT = ("torch", "onnxscript", "esrgan_export")
"""What `esrgan_export.named` needs beside what the runtime has anyway."""


@dataclass(frozen=True)
class Made:
    """An ONNX file in a folder of its own, and what it was made from."""

    onnx: Path
    files: Mapping[str, str]
    """Name of each file it was made from -> its SHA-256."""


def torch_is_here() -> bool:
    """Whether a checkpoint can be exported; nothing is imported."""
    return all(importlib.util.find_spec(package) for package in EXPORT)


def recall_made(folder: Path) -> Made | None:
    """What was made in `folder` before, if it is as it was; None: nothing, or it was damaged since."""
    try:
        record = json.loads(read_bytes(folder / RECORD, ModelError, TEXT_BYTES))
        onnx = folder / Path(record["onnx"]).name
        fits = record["format"] == RECORD_FORMAT and sha256_of(onnx) == record["sha256"]
        return Made(onnx, {str(name): str(digest) for name, digest in record["files"].items()}) if fits else None
    except (EsrganError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def make(
    name: str,
    files: Sequence[Path],
    hashes: Mapping[str, str],
    folder: Path,
    progress: Progress,
    *,
    scale: int | None,
    overlap: int | None,
) -> Path:
    """Make the ONNX file of a model in `folder`, check it, and record what it was made from.

    Args:
        name: of the model.
        files: one, or of ncnn the .param and the .bin.
        hashes: their SHA-256, by name.
        folder: where it is kept.
        progress: told of the steps.
        scale: that the file must have; None: any.
        overlap: for an ncnn file, where it was measured.

    Raises:
        ModelError: a file is damaged, holds another network, or has another scale.
        BackendMissingError: a package is missing.
        OutputError: `folder` cannot be written.
    """
    form = FORMS[files[0].suffix.lower()]
    if form == "onnx":
        target = files[0]
    else:
        target = folder / f"{name}_fp32.onnx"
        progress(f"{name}: converting {files[0].name} to ONNX, once", 0, 0)
        if form == "ncnn":
            _from_ncnn(files, target, overlap)
        else:
            _from_checkpoint(files[0], target, progress)
    found = load_onnx(target)[1].scale
    if scale is not None and found != scale:
        raise ModelError(
            f"{target}: enlarges {found} times, and {name} is listed with a scale of {scale}; correct that"
        )
    if target.parent == folder:
        digest = {"format": RECORD_FORMAT, "onnx": target.name, "sha256": sha256_of(target)}
        write_json(folder / RECORD, {**digest, "files": dict(hashes)})
    return target


def _from_ncnn(files: Sequence[Path], target: Path, overlap: int | None) -> None:
    from esrgan_deploy.ncnn import onnx_from_ncnn

    param, weights = sorted(files, key=lambda file: file.suffix != ".param")
    model = onnx_from_ncnn(param, weights, overlap=overlap)
    with replacing(target) as partial:
        partial.write_bytes(model.SerializeToString())


def _from_checkpoint(checkpoint: Path, target: Path, progress: Progress) -> None:
    """In a process of its own, since the runtime never imports torch; the file is read there without its code."""
    needs_torch(checkpoint.name)
    command = [sys.executable, "-m", "esrgan_export.named", str(checkpoint), str(target)]
    said = ""
    with waiting_outside("the export"), subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            said = line.strip() or said
            progress(said, 0, 0)
            moved()
    if process.returncode:
        raise ModelError(f"{checkpoint}: cannot be exported: {said.partition(': ')[2] or said or 'it gave no reason'}")


def needs_torch(what: str) -> None:
    """Refuse what only torch can read, where there is none.

    Raises:
        BackendMissingError: it names the extra.
    """
    if not torch_is_here():
        raise BackendMissingError(
            f"{what}: a PyTorch checkpoint becomes ONNX with torch only: pip install 'esrgan-deploy[export]', here or "
            "on another machine. Models without 'needs torch' in esrgan-upscale --list-models need none"
        )
