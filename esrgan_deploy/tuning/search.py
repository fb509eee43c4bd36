"""Find the fastest way to run a network on this machine, and save it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends import gpu_comes_first
from esrgan_deploy.backends.choice import Choice
from esrgan_deploy.backends.int8 import int8_beside
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.backends.saved_choices import remember
from esrgan_deploy.errors import OptionError, OutputError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.system.cpu import shortcomings
from esrgan_deploy.system.files import scratch_folder
from esrgan_deploy.tuning.candidates import candidates
from esrgan_deploy.tuning.halving import SuccessiveHalving
from esrgan_deploy.tuning.short_network import any_size, shorten

if TYPE_CHECKING:
    import onnx

    from esrgan_deploy.engine.build.progress import BuildProgress

LIMIT_S = 20.0
"""A tuning takes no longer than this."""
SPENT_S = 13.0
"""No run is begun after this; the run at work then may take as long again on a slow machine."""
PHASE = "Tuning"


def tune(model: StrPath, precision: CpuPrecision = "auto", progress: BuildProgress | None = None) -> Choice:
    """Time the ways to run `model` on this CPU, on noise, and save the fastest for this machine and model.

    If it cannot be saved, the remarks of the choice say so.

    Args:
        model: an ONNX file.
        precision: the quality that has to be kept; see `candidates`.
        progress: called for each step, as for an engine that is built.

    Raises:
        OptionError: the model runs on the GPU here, or see `candidates`.
        BackendMissingError: neither OpenVINO nor ONNX Runtime is installed.
        ModelError: the file, or its INT8 artefact, is damaged or of another kind.
        MachineError: no backend can run it here.
        OutputError: there is no room for temporary files.
    """
    model, start = as_path(model), perf_counter()
    if gpu_comes_first(model):
        raise OptionError(f"{model}: runs on the GPU here, and there is nothing to tune; see esrgan-engine --help")
    graph, info = load_onnx(model)
    contenders = candidates(model, info, precision)
    with scratch_folder() as folder:
        short = _write_short(folder / "float.onnx", graph)
        int8 = short if info.precision == "int8" else None
        if precision == "int8" and int8 is None:
            int8 = _write_short(folder / "int8.onnx", load_onnx(int8_beside(model))[0])

        def told(done: int, total: int) -> None:
            if progress:
                progress(PHASE, done, total)

        with SuccessiveHalving(short, int8, start + SPENT_S, told) as halving:
            timings, best = halving.decide(contenders)
            tiles = [] if info.fixed_size else halving.curve(best, best.session.largest_untiled)
    remarks = shortcomings()
    if precision == "int8" and timings[0].candidate.precision != "int8":
        remarks.insert(0, "int8 is slower here")
    choice = Choice(tuple(timings), tuple(tiles), tuple(remarks), perf_counter() - start)
    try:
        remember(model, precision, choice)
    except OutputError as error:  # for instance in a container whose home folder is read-only
        return replace(choice, remarks=(*choice.remarks, f"not remembered: {error}"))
    return choice


def _write_short(path: Path, graph: onnx.ModelProto) -> Path:
    path.write_bytes(shorten(any_size(graph)).SerializeToString())
    return path
