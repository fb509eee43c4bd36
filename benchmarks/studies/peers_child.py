"""One contender of `peers.py`, in a process of its own: it loads a network in one library and upscales what it is sent.

    python peers_child.py CONNECTION REQUEST

CONNECTION is the number of an inherited socket, REQUEST is JSON: which of `LOADERS` with which arguments, and the size
of the frame to warm up with. It answers `Ready`, then every `Frame` with `Upscaled`, or at any time `Failed`. Some
libraries live in an interpreter of their own, so everything but numpy is imported where it is used.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from peers_messages import Failed, Frame, Pixels, Ready, Upscaled

Planes = npt.NDArray[np.float32]


class Loaded(NamedTuple):
    """A network that is ready to run."""

    upscale: Callable[[Pixels], Pixels]
    """uint8 RGB (H, W, 3) -> (4H, 4W, 3): this is timed, and nothing else."""
    version: str
    precision: str


def to_planes(frame: Pixels) -> Planes:
    """(H, W, 3) integers as (1, 3, H, W) floats in [0, 1]: what host programs write in front of a network."""
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)
    planes /= 255
    return planes


def to_pixels(planes: npt.NDArray[Any]) -> Pixels:
    """The way back from (1, 3, H, W), clamped and rounded half to even."""
    scaled = np.clip(planes[0], 0, 1)
    scaled *= 255
    return np.ascontiguousarray(np.rint(scaled, out=scaled).astype(np.uint8).transpose(1, 2, 0))


def load_session(model: str | None, backend: str = "auto", precision: Any = "auto") -> Loaded:  # noqa: ANN401  # from JSON
    """open_session(MODEL): integer frames go in and come out, the conversion is part of the graph."""
    from esrgan_deploy import __version__, open_session

    session = open_session(model, backend, precision=precision)
    return Loaded(
        lambda frame: session.run(frame[None])[0], f"esrgan-deploy {__version__} ({session.backend})", session.precision
    )


def load_pytorch(checkpoint: str, compiled: bool = False) -> Loaded:
    """The network under torch.no_grad(), fp32, NCHW, no tiles, as Real-ESRGAN calls it; or torch.compile of it."""
    import torch

    from esrgan_export.checkpoint import load_checkpoint

    network = load_checkpoint(Path(checkpoint)).network.eval()
    run = torch.compile(network) if compiled else network

    @torch.no_grad()
    def upscale(frame: Pixels) -> Pixels:
        return to_pixels(run(torch.from_numpy(to_planes(frame))).numpy())

    return Loaded(upscale, f"torch {torch.__version__}", "fp32")


def load_onnxruntime(model: str) -> Loaded:
    """InferenceSession(MODEL) with its default options on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return Loaded(
        lambda frame: to_pixels(session.run(None, {"input": to_planes(frame)})[0]),
        f"onnxruntime {onnxruntime.__version__}",
        "fp32",
    )


def load_openvino(model: str, precision: str, height: int, width: int) -> Loaded:
    """compile_model(MODEL, "CPU") for the one size of the frames."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([1, 3, height, width])
    request = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": HINTS[precision]}).create_infer_request()

    def upscale(frame: Pixels) -> Pixels:
        request.infer({0: to_planes(frame)}, share_inputs=True)
        return to_pixels(request.get_output_tensor(0).data)

    return Loaded(upscale, f"openvino {openvino.__version__.split('-')[0]}", precision)


def load_ncnn(param: str, weights: str) -> Loaded:
    """ncnn.Net on the CPU with its default options; on x86 these include Winograd convolution."""
    import ncnn

    net = ncnn.Net()
    if net.load_param(param) or net.load_model(weights):
        raise RuntimeError(f"ncnn cannot load {param}")
    (source,), (result,) = net.input_names(), net.output_names()

    def upscale(frame: Pixels) -> Pixels:
        planes = to_planes(frame)[0]
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(planes).clone())  # the Mat alone would not own its samples
        status, enlarged = extractor.extract(result)
        if status:
            raise RuntimeError(f"ncnn failed with status {status}")
        return to_pixels(np.array(enlarged)[None])

    return Loaded(upscale, f"ncnn {ncnn.__version__}", "fp32")


def load_vsmlrt(model: str, plugin: str, precision: str, height: int, width: int) -> Loaded:
    """RGB24 -> RGBS -> core.ort.Model or core.ov.Model -> RGB24 in VapourSynth, as vsmlrt.py sets the filters up."""
    import vapoursynth as vs

    core = vs.core
    waiting: list[Pixels] = []

    def next_frame(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        copy = f.copy()
        frame = waiting.pop()
        for channel in range(3):
            np.asarray(copy[channel])[:] = frame[..., channel]
        return copy

    blank = core.std.BlankClip(width=width, height=height, format=vs.RGB24, length=1 << 20, keep=True)
    floats = core.resize.Point(core.std.ModifyFrame(blank, blank, next_frame), format=vs.RGBS)
    if plugin == "ov":
        settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 0, "INFERENCE_PRECISION_HINT": HINTS[precision]}
        enlarged = core.ov.Model(floats, model, device="CPU", config=lambda: {**settings, "ENABLE_CPU_PINNING": "YES"})
    else:
        enlarged = core.ort.Model(floats, model, provider="CPU", num_streams=1)
    result = core.resize.Point(enlarged, format=vs.RGB24)
    number = count()  # a frame of the same number would come from VapourSynth's cache

    def upscale(frame: Pixels) -> Pixels:
        waiting.append(frame)
        with result.get_frame(next(number)) as planes:
            return np.stack([np.asarray(planes[channel]) for channel in range(3)], axis=-1)

    library = {"ov": ("openvino", "openvino_version_build"), "ort": ("onnxruntime", "onnxruntime_version")}[plugin]
    versions = getattr(core, plugin).Version()
    return Loaded(upscale, f"vs-mlrt {versions['version']} ({library[0]} {versions[library[1]]})", precision)


def load_framelift(folder: str, model: str, weights: str) -> Loaded:
    """framelift.AIUpscaler(..., backend="openvino"), the faster of its two on a CPU; tiles of 256, its default."""
    sys.path.insert(0, folder)
    import framelift
    from framelift.device import resolve_device
    from framelift.upscaler import AIUpscaler

    upscaler = AIUpscaler(framelift.MODELS[model], Path(weights), resolve_device("cpu"), backend="openvino")
    return Loaded(
        lambda frame: np.ascontiguousarray(upscaler.infer(frame[..., ::-1])[..., ::-1]),  # its frames are BGR
        f"framelift-video {framelift.__version__}",
        "fp32",
    )


PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>: a signal for when the parent dies."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names."""
LOADERS: dict[str, Callable[..., Loaded]] = {
    "session": load_session,
    "pytorch": load_pytorch,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "ncnn": load_ncnn,
    "vsmlrt": load_vsmlrt,
    "framelift": load_framelift,
}


def main() -> None:
    """Load, warm up, and answer frames until the other side hangs up."""
    # A benchmark that is killed would leave this process behind, stopped for ever.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    connection, request = Connection(int(sys.argv[1])), json.loads(sys.argv[2])
    try:
        loaded = LOADERS[request["loader"]](**request["arguments"])
        noise = np.random.default_rng(0)
        loaded.upscale(noise.integers(0, 256, (request["height"], request["width"], 3), np.uint8))
        connection.send(Ready(loaded.version, loaded.precision))
        while True:
            connection.send(timed(loaded.upscale, connection.recv().pixels()))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # whatever a library raises is the reason why it has no figures
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        connection.send(Failed(f"{type(error).__name__}: {lines[0] if lines else 'no message'}"))


def timed(upscale: Callable[[Pixels], Pixels], frame: Pixels) -> Upscaled:
    """Upscale one frame; its way between the processes is not part of the time."""
    cpu_before, before = process_time(), perf_counter()
    result = upscale(frame)
    seconds, cpu_seconds = perf_counter() - before, process_time() - cpu_before
    return Upscaled(seconds, cpu_seconds, Frame.of(result))


if __name__ == "__main__":
    main()
