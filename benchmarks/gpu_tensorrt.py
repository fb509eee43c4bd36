"""The TensorRT rows of gpu_check.py: RRDBNet-23 in fp16, as an engine alone, as a session, on the device, refitted.

    python benchmarks/gpu_tensorrt.py FOLDER WxH ...

It needs TensorRT and cuda-python or PyCUDA, and no torch. Every row is a line of JSON, printed as soon as it is
measured; the first shape gets all of them, the others those of speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_check import ALPHA, NAME

from esrgan_deploy.backends.trt import TensorRTSession
from esrgan_deploy.bench.flops import count_flops
from esrgan_deploy.cuda import Driver
from esrgan_deploy.cuda.drivers import open_driver
from esrgan_deploy.dial import ends_path
from esrgan_deploy.engine.cache import EngineCache
from esrgan_deploy.engine.library import TensorRT, load_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.engine.runtime import Engine, activation_bytes
from esrgan_deploy.engine.sidecar import EngineFile
from esrgan_deploy.model import load_onnx

RUNS = 20
SECONDS = 3.0
"""How long a stream of frames is measured."""

Pixels = npt.NDArray[np.uint8]


class Bench:
    """TensorRT, a GPU, and a cache of engines that is thrown away."""

    def __init__(self, library: TensorRT, driver: Driver, networks: Path, cache: EngineCache) -> None:
        self.library = library
        self.driver = driver
        self.networks = networks
        self.cache = cache

    def model(self, alpha: float) -> Path:
        """The network at an alpha."""
        return self.networks / f"{NAME}_a{alpha:g}_fp16.onnx"

    def build(self, model: Path, height: int, width: int, *, refit: bool = False) -> EngineFile:
        """The engine for one frame of this size; what is there already is taken."""
        options = EngineOptions(Profile.fixed(1, height, width), refit=refit)
        with self.driver.active():
            free, _ = self.driver.memory()
        return self.cache.get(
            self.library, self.driver.facts, model, options, free_memory=free, progress=lambda *_: None
        )

    def session(self, model: Path, *, refit: bool = False, streams: int = 1) -> TensorRTSession:
        """A session that finds its engines in the cache."""
        return TensorRTSession(
            model, refit=refit, streams=streams, cache=self.cache, library=self.library, driver=self.driver
        )


def main() -> None:
    """Print the rows of every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what gpu_networks.py wrote")
    parser.add_argument("shapes", nargs="+", help="WxH of frames")
    args = parser.parse_args()
    driver, library = open_driver(), load_tensorrt()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(library, driver, args.folder, EngineCache(Path(folder)))
        for index, shape in enumerate(args.shapes):
            width, height = map(int, shape.split("x"))
            for row in rows(bench, height, width, everything=index == 0):
                version = {"version": str(library), "cuda": driver.name}
                print(json.dumps({**row, "shape": shape, **version}), flush=True)
    driver.close()


def rows(bench: Bench, height: int, width: int, *, everything: bool) -> Iterator[dict[str, Any]]:
    """The rows of one shape; `everything`: the device, the refit and the photos too."""
    model = bench.model(1.0)
    engine = bench.build(model, height, width)
    made = engine.sidecar
    yield {"row": "build", "seconds": made.seconds, "plan_mib": made.plan_bytes / 2**20, "notes": made.notes}
    ms, activations = engine_alone_ms(bench, engine)
    flops = count_flops(load_onnx(model)[0], height, width)
    tflops = None if flops is None else flops / median(ms) / 1e9
    yield {"row": "engine", "ms": ms, "tflops": tflops, "activations_mib": activations / 2**20}
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    for streams in (1, 2):
        with bench.session(model, streams=streams) as session:
            session.prepare((1, height, width), "uint8")
            fps = submitted_fps(session, frame)
        # The target is for one stream: a second one is another way to use the GPU, and is shown beside it.
        name = "submit" if streams == 1 else f"submit, {streams} streams"
        yield {"row": name, "fps": fps, "engine_fps": 1e3 / median(ms)}
    if everything:
        yield device_row(bench, model, frame)
        if ends_path(model).exists():
            yield refit_row(bench, frame)
        yield from fidelity_rows(bench, model)


def engine_alone_ms(bench: Bench, file: EngineFile) -> tuple[list[float], int]:
    """Milliseconds of single runs by CUDA events, frames staying on the device; and the memory of its activations."""
    driver, shape = bench.driver, file.sidecar.options.profile.opt
    with driver.active():
        engine = Engine(bench.library, driver, file, contexts=1, buffers=0)
        sizes, stream = engine.sizes, driver.create_stream()
        buffers = [driver.allocate(size(shape)) for size in (sizes.frames_in, sizes.frames_out, sizes.mean)]
        context = engine.create_context(stream)
        context.set_shape(shape)
        start, end = driver.create_event(timing=True), driver.create_event(timing=True)
        times = []
        for index in range(3 + RUNS):
            driver.record(start, stream)
            context.enqueue(buffers[0], buffers[1], buffers[2], stream)
            driver.record(end, stream)
            driver.synchronize(end)
            if index >= 3:  # the first ones warm up
                times.append(driver.elapsed_ms(start, end))
        activations = activation_bytes(engine.raw)
        context.close()
        engine.close()
        for buffer in buffers:
            driver.free(buffer)
        for event in (start, end):
            driver.destroy_event(event)
        driver.destroy_stream(stream)
    return times, activations


def submitted_fps(session: TensorRTSession, frame: Pixels) -> float:
    """Frames per second when the host always has eight on their way."""
    waiting = deque(session.submit(frame) for _ in range(8))
    for _ in range(8):  # warm-up, graphs are captured
        waiting.append(session.submit(frame))
        waiting.popleft().result()
    start, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS:
        waiting.append(session.submit(frame))
        waiting.popleft().result()
        done += 1
    for future in waiting:
        future.result()
    return done / seconds


def device_row(bench: Bench, model: Path, frame: Pixels) -> dict[str, Any]:
    """Frames that are on the device already: their rate, and how often anything was copied from or to the host."""
    driver = bench.driver
    with bench.session(model) as session, driver.active():
        expected = session.run(frame)
        stream, source = driver.create_stream(), driver.allocate(frame.nbytes)
        staging = driver.allocate_pinned(max(frame.nbytes, expected.nbytes))
        view = pinned_view(staging, max(frame.nbytes, expected.nbytes))
        view[: frame.nbytes] = frame.ravel()
        driver.copy_in(source, staging, frame.nbytes, stream)
        array = CudaArray(source, frame.shape)
        result = session.run_device(array, stream=stream)
        driver.synchronize_stream(stream)
        with counted_host_copies(driver) as copies:
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                for _ in range(8):
                    result = session.run_device(array, out=result, stream=stream)
                    done += 1
                driver.synchronize_stream(stream)
            seconds = time.perf_counter() - start
        driver.copy_out(staging, result.__cuda_array_interface__["data"][0], expected.nbytes, stream)
        driver.synchronize_stream(stream)
        same = bool(np.array_equal(view[: expected.nbytes], expected.ravel()))
        del result
        driver.free(source)
        driver.free_pinned(staging)
        driver.destroy_stream(stream)
    return {"row": "device", "fps": done / seconds, "host_copies": len(copies), "same_as_submit": same}


class CudaArray:
    """Frames on the device, as any library shows them: CUDA Array Interface v3."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {"version": 3, "shape": shape, "typestr": "|u1", "data": (address, False)}


def pinned_view(address: int, nbytes: int) -> Pixels:
    """Page-locked memory as an array."""
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


@contextmanager
def counted_host_copies(driver: Driver) -> Iterator[list[int]]:
    """Bytes of each copy between host and device that the driver is asked for in the block."""
    copies: list[int] = []
    originals = driver.copy_in, driver.copy_out

    def counting(copy: Any) -> Any:  # noqa: ANN401  # either of the two
        def call(target: int, source: int, nbytes: int, stream: int) -> None:
            copies.append(nbytes)
            copy(target, source, nbytes, stream)

        return call

    driver.copy_in, driver.copy_out = counting(originals[0]), counting(originals[1])  # type: ignore[method-assign]
    try:
        yield copies
    finally:
        driver.copy_in, driver.copy_out = originals  # type: ignore[method-assign]


def refit_row(bench: Bench, frame: Pixels) -> dict[str, Any]:
    """The dial is turned, timed, and compared with an engine that was built where it stands now."""
    height, width = frame.shape[1:3]
    build_s = bench.build(bench.model(1.0), height, width, refit=True).sidecar.seconds
    with bench.session(bench.model(1.0), refit=True) as session:
        session.run(frame)
        session.set_alpha(0.5)  # the first time reads the file
        start = time.perf_counter()
        session.set_alpha(ALPHA)
        seconds = time.perf_counter() - start
        turned = session.run(frame)
    with bench.session(bench.model(ALPHA)) as session:
        built = session.run(frame)
    difference = np.abs(turned.astype(int) - built.astype(int))
    return {
        "row": "refit",
        "seconds": seconds,
        "build_seconds": build_s,
        "most_different": int(difference.max()),
        "share_different": float((difference > 0).mean()),
    }


def fidelity_rows(bench: Bench, model: Path) -> Iterator[dict[str, Any]]:
    """PSNR, in dB, of 16-bit frames of the engine to PyTorch's fp32: 8 bits would round the difference away."""
    photos = np.load(bench.networks / "photos.npz")
    references = np.load(bench.networks / "references.npz")
    with bench.session(model) as session:
        for name in photos.files:
            large = session.run(photos[name][None].astype(np.uint16) * 257)[0] / 65535
            error = np.mean((large - references[name].astype(np.float64)) ** 2)
            yield {"row": "fidelity", "photo": name, "db": float(-10 * np.log10(error))}


if __name__ == "__main__":
    main()
