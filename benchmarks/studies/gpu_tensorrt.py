"""The TensorRT rows of gpu_check.py: RRDBNet-23 in fp16, as an engine alone, as a session, on the device, refitted.

    python benchmarks/studies/gpu_tensorrt.py FOLDER WxH ...

It needs TensorRT and cuda-python, and no torch. Every row is a line of JSON, printed as soon as it is
measured; speed comes first, at every shape, and the rest at the first one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from esrgan_deploy.backends.trt import TensorRTSession
from esrgan_deploy.cuda.driver import Driver, Event, open_driver
from esrgan_deploy.engine.adapter import TensorRT, load_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.engine.run.execution import Engine, activation_bytes
from esrgan_deploy.engine.store.cache import EngineCache
from esrgan_deploy.engine.store.sidecar import EngineFile
from esrgan_deploy.errors import EsrganError
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from gpu_check import ALPHA, NAME

WARM_UP_S, SECONDS = 0.5, 3.0
"""How long a stream of frames runs before it is measured, and then."""

Pixels = npt.NDArray[np.uint8]
Group: TypeAlias = "Callable[[Bench, Pixels], Iterator[dict[str, Any]]]"


class Bench:
    """TensorRT, a GPU, and a cache of engines that is thrown away."""

    def __init__(self, trt: TensorRT, driver: Driver, networks: Path, cache: EngineCache) -> None:
        self.trt = trt
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
        return self.cache.get(self.trt, self.driver.facts, model, options, free_memory=free, progress=lambda *_: None)

    def session(self, model: Path, *, refit: bool = False, streams: int = 1) -> TensorRTSession:
        """A session that finds its engines in the cache."""
        return TensorRTSession(model, refit=refit, streams=streams, cache=self.cache, trt=self.trt, driver=self.driver)


def main() -> None:
    """Print the rows of every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what gpu_networks.py wrote")
    parser.add_argument("shapes", nargs="+", help="WxH of frames")
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes]
    driver, trt = open_driver(), load_tensorrt()
    about = {"version": str(trt), "cuda": "cuda-python"}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(trt, driver, args.folder, EngineCache(Path(folder)))
        for row in rows(bench, [(height, width) for width, height in shapes]):
            print(json.dumps({**row, **about}), flush=True)
    driver.close()


def rows(bench: Bench, sizes: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Speed at each (height, width), then the rest at the first; what fails is a row, and the others go on."""
    groups: list[tuple[str, tuple[int, int], Group]] = [("speed", size, speed_rows) for size in sizes]
    groups += [(name, sizes[0], group) for name, group in REST.items()]
    for name, (height, width), group in groups:
        shape = {"shape": f"{width}x{height}"}
        try:
            for row in group(bench, noise(height, width)):
                yield {**row, **shape}
        except EsrganError as error:
            yield {"row": f"failed: {name}", **shape, "error": str(error)}


def noise(height: int, width: int) -> Pixels:
    """One frame. Zeros would need less power, and let the clock rise."""
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def speed_rows(bench: Bench, frame: Pixels) -> Iterator[dict[str, Any]]:
    """The build, the engine alone, and sessions that take the frame from host memory."""
    model, (height, width) = bench.model(1.0), frame.shape[1:3]
    engine = bench.build(model, height, width)
    made = engine.sidecar
    yield {"row": "build", "seconds": made.seconds, "plan_mib": made.plan_bytes / 2**20, "notes": made.notes}
    ms, activations = engine_alone_ms(bench, engine, frame)
    flops = count_flops(load_onnx(model)[0], height, width)
    tflops = None if flops is None else flops / median(ms) / 1e9
    yield {"row": "engine", "ms": ms, "tflops": tflops, "activations_mib": activations / 2**20}
    fps = submitted_fps(bench, frame, streams=1)
    # Before and after: clocks fall while the chip grows warm.
    alone_fps = 1e3 / median(ms + engine_alone_ms(bench, engine, frame)[0])
    yield {"row": "submit", "fps": fps, "engine_fps": alone_fps}
    # The target is for one stream: a second one is another way to use the GPU, and is shown beside it.
    yield {"row": "submit, 2 streams", "fps": submitted_fps(bench, frame, streams=2), "engine_fps": alone_fps}


def engine_alone_ms(bench: Bench, file: EngineFile, frame: Pixels) -> tuple[list[float], int]:
    """Milliseconds of each run by CUDA events, and the memory of its activations.

    One run comes behind the other, as a CUDA graph where there are graphs, and the frame stays on the device: what a
    session could reach if copies cost nothing.
    """
    driver, shape = bench.driver, file.sidecar.options.profile.opt
    with driver.active(), ExitStack() as stack:
        engine = Engine(bench.trt, driver, file, contexts=1, batches=1)
        stack.callback(engine.close)
        stream = driver.create_stream()
        stack.callback(driver.destroy_stream, stream)
        buffers = []
        for size in (engine.sizes.frames_in, engine.sizes.frames_out, engine.sizes.mean):
            buffers.append(driver.allocate(size(shape)))
            stack.callback(driver.free, buffers[-1])
        upload(driver, buffers[0], frame, stream)
        context = engine.create_context(stream)
        stack.callback(context.close)
        context.set_shape(shape)
        events = [driver.create_event(timing=True) for _ in range(4)]
        for event in events:
            stack.callback(driver.destroy_event, event)

        def run() -> None:
            context.enqueue(buffers[0], buffers[1], buffers[2], stream)

        run()  # settles what depends on the shape
        driver.synchronize_stream(stream)
        driver.begin_capture(stream)
        run()
        graph = driver.end_capture(stream)
        stack.callback(driver.destroy_graph, graph)
        times = stream_ms(driver, stream, lambda: driver.launch(graph, stream), events)
        return times, activation_bytes(engine.raw)


def stream_ms(driver: Driver, stream: int, run: Callable[[], None], events: Sequence[Event]) -> list[float]:
    """Milliseconds from the end of one run to the end of the next, with two more behind it, after a warm-up."""
    times: list[float] = []
    start, index = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < WARM_UP_S + SECONDS or not times:
        run()
        driver.record(events[index % 4], stream)
        if index >= 3:
            before, done = events[(index - 3) % 4], events[(index - 2) % 4]
            driver.synchronize(done)
            if seconds > WARM_UP_S:
                times.append(driver.elapsed_ms(before, done))
        index += 1
    driver.synchronize_stream(stream)
    return times


def upload(driver: Driver, address: int, frame: Pixels, stream: int) -> None:
    """Copy a frame to the device, and wait for it."""
    staging = driver.allocate_pinned(frame.nbytes)
    pinned_view(staging, frame.nbytes)[:] = frame.ravel()
    driver.copy_in(address, staging, frame.nbytes, stream)
    driver.synchronize_stream(stream)
    driver.free_pinned(staging)


def submitted_fps(bench: Bench, frame: Pixels, *, streams: int) -> float:
    """Frames per second when the host always has eight on their way."""
    with bench.session(bench.model(1.0), streams=streams) as session:
        session.prepare((1, *frame.shape[1:3]), "uint8")
        waiting = deque(session.submit(frame) for _ in range(8))

        def flow(wanted_s: float) -> float:
            start, done = time.perf_counter(), 0
            while (seconds := time.perf_counter() - start) < wanted_s or not done:
                waiting.append(session.submit(frame))
                waiting.popleft().result()
                done += 1
            return done / seconds

        flow(WARM_UP_S)
        fps = flow(SECONDS)
        for future in waiting:
            future.result()
    return fps


def device_rows(bench: Bench, frame: Pixels) -> Iterator[dict[str, Any]]:
    """Frames that are on the device already: their rate, and how often anything was copied from or to the host."""
    driver = bench.driver
    with bench.session(bench.model(1.0)) as session, driver.active():
        expected = session.run(frame)
        stream, source = driver.create_stream(), driver.allocate(frame.nbytes)
        upload(driver, source, frame, stream)
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
        staging = driver.allocate_pinned(expected.nbytes)
        driver.copy_out(staging, result.__cuda_array_interface__["data"][0], expected.nbytes, stream)
        driver.synchronize_stream(stream)
        same = bool(np.array_equal(pinned_view(staging, expected.nbytes), expected.ravel()))
        del result
        driver.free(source)
        driver.free_pinned(staging)
        driver.destroy_stream(stream)
    yield {"row": "device", "fps": done / seconds, "host_copies": len(copies), "same_as_submit": same}


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


def refit_rows(bench: Bench, frame: Pixels) -> Iterator[dict[str, Any]]:
    """Alpha is changed by a refit, timed, and compared with an engine that was built at the new alpha."""
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
    yield {
        "row": "refit",
        "seconds": seconds,
        "build_seconds": build_s,
        "most_different": int(difference.max()),
        "share_different": float((difference > 0).mean()),
    }


def fidelity_rows(bench: Bench, _frame: Pixels) -> Iterator[dict[str, Any]]:
    """PSNR, in dB, of 16-bit photos to PyTorch's fp32: 8 bits would round the difference away."""
    photos = np.load(bench.networks / "photos.npz")
    references = np.load(bench.networks / "references.npz")
    with bench.session(bench.model(1.0)) as session:
        for name in photos.files:
            large = session.run(photos[name][None].astype(np.uint16) * 257)[0] / 65535
            error = np.mean((large - references[name].astype(np.float64)) ** 2)
            yield {"row": "fidelity", "photo": name, "db": float(-10 * np.log10(error))}


REST: dict[str, Group] = {"fidelity": fidelity_rows, "device": device_rows, "refit": refit_rows}


if __name__ == "__main__":
    main()
