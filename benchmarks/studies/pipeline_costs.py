"""What comes beside the network: the start, each step of a frame with the memory it makes, and threads side by side.

All figures are those of the compact network, which is the cheapest; for larger ones the same costs are a smaller share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from esrgan_deploy import ModelInfo, Session, Upscaler, open_session
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.cli.upscale import CLIP_STREAMS
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.video import probe, upscale_video
from esrgan_deploy.video.output.encode import SegmentEncoder, encoder_settings
from esrgan_deploy.video.pixels.convert import to_yuv
from side_by_side import save
from video_pipeline import Clip, decoded, make_clip, run_bare

STEP = Clip(640, 360, 4)
TILE = 256
THREADS = Clip(320, 180, 12)
THREADS_TARGET = 1.03
"""CPU time together over that of the network and of all else, each alone."""

# A process of its own, since an import is one only once. Prints the seconds of each phase as JSON.
START = """
import json, sys
from pathlib import Path
from time import perf_counter
marks = {}
def phase(name, call):
    begin = perf_counter()
    result = call()
    marks[name] = perf_counter() - begin
    return result
def imports():
    import cv2, numpy, onnx, openvino
    import esrgan_deploy.upscaler
    from esrgan_deploy.model import load_onnx
    return load_onnx
load_onnx = phase("imports", imports)
model, cache = Path(sys.argv[1]), sys.argv[2]
phase("read the model", lambda: load_onnx(model))
from esrgan_deploy import open_session
session = phase("open it", lambda: open_session(model, "openvino", cache=Path(cache) if cache else None))
import numpy as np
frame = np.zeros((1, 128, 128, 3), np.uint8)
phase("first frame", lambda: session.run(frame))
phase("second frame", lambda: session.run(frame))
print(json.dumps(marks))
"""


def main() -> None:
    """Measure, print the tables, write results/pipeline_costs.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument(
        "-m", "--model", type=Path, default=COMPACT_CLEAN, help="what is opened (default: compact-clean)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            "start_s": measure_start(args.model, args.rounds, folder),
            "steps": measure_steps(args.rounds, folder),
            "threads": measure_threads(args.rounds, folder),
        }
    save("pipeline_costs", {"rounds": args.rounds, "start_of": args.model.name, **figures})


def measure_start(model: Path, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds from the start of Python to a first frame of 128x128, without and with OpenVINO's cache of models."""
    cache = folder / "openvino"
    _start(model, cache)  # fills it
    found: dict[str, list[dict[str, float]]] = {"no cache": [], "cache": []}
    for _ in range(rounds):
        found["no cache"].append(_start(model, None))
        found["cache"].append(_start(model, cache))
    medians = {way: {phase: median(run[phase] for run in runs) for phase in runs[0]} for way, runs in found.items()}
    print(f"Start of {model.name}, seconds; opening it reads it again")
    for phase, seconds in medians["no cache"].items():
        print(f"  {phase:16} {seconds:7.3f}   with a cache of {_mib(cache):.0f} MiB {medians['cache'][phase]:7.3f}")
    return medians


def _start(model: Path, cache: Path | None) -> dict[str, float]:
    begin = perf_counter()
    command = [sys.executable, "-c", START, str(model), str(cache or "")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    phases: dict[str, float] = json.loads(done.stdout)
    return {**phases, "Python itself": perf_counter() - begin - sum(phases.values())}


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


def measure_steps(rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each step of a frame, and the memory of arrays that it makes, in enlarged frames."""
    path = make_clip(STEP, folder / "steps.mp4")
    info = probe(path)
    with open_session(COMPACT_CLEAN, "openvino") as session:
        settings = encoder_settings(info, (info.height * 4, info.width * 4))
        write = to_yuv(settings.width, settings.height, settings.pixel_format, settings.colour)
        frames = decoded(path)
        large = session.run(frames[0][None])[0]
        tiles = Upscaler(session, tile=TILE).tiles_of(info.height, info.width)
        assert tiles is not None
        enlarged = [session.run(tile[None])[0] for tile in tiles.cut(frames[0])]
        pictures = [write(session.run(frame[None])[0]) for frame in frames]
        steps: dict[str, Callable[[], object]] = {
            "decode and to RGB": lambda: decoded(path),
            "network and conversions": lambda: session.run(frames[0][None]),
            "the same by an Upscaler": partial(Upscaler(session, tile=0).upscale, frames[0]),
            f"join {len(tiles)} tiles": lambda: tiles.join(enlarged, 4),
            "to YUV": lambda: write(large),
            "encode": lambda: encode(SegmentEncoder(settings), pictures),
        }
        several = {"decode and to RGB": len(frames), "encode": len(frames)}
        figures = {name: _step(call, rounds, several.get(name, 1), large.nbytes) for name, call in steps.items()}
    network = figures["network and conversions"]["cpu_ms"]
    print(f"A frame of {STEP.width}x{STEP.height}, {large.shape[1]}x{large.shape[0]} enlarged")
    for name, figure in figures.items():
        share = figure["cpu_ms"] / network
        print(f"  {name:24} {figure['cpu_ms']:8.1f} ms of CPU ({share:6.1%}), makes {figure['made']:.2f} large frames")
    return figures


def encode(encoder: SegmentEncoder, pictures: list[Any]) -> None:
    """Packets of all pictures, thrown away."""
    for index, picture in enumerate(pictures):
        list(encoder.encode(picture, index, 1))
    list(encoder.flush())


def _step(call: Callable[[], object], rounds: int, frames: int, frame_bytes: int) -> dict[str, float]:
    """For one of `frames` that `call` does. What a library makes without telling Python is not seen."""
    call()
    times = []
    for _ in range(rounds):
        begin = process_time()
        call()
        times.append(process_time() - begin)
    tracemalloc.start()
    result = call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return {"cpu_ms": median(times) * 1e3 / frames, "made": most / frames / frame_bytes}


def measure_threads(rounds: int, folder: Path) -> dict[str, Any]:
    """CPU time of the pipeline, beside that of the network alone and of the pipeline with a network that does nothing.

    Threads that fight, by waking and waiting for each other, or by pushing each other's data out of the caches, take
    more time together than alone.
    """
    path = make_clip(THREADS, folder / "threads.mp4")
    frames = decoded(path)
    target = folder / "large.mp4"
    with open_session(COMPACT_CLEAN, "openvino", streams=CLIP_STREAMS) as session, _nothing() as nothing:
        ways: Mapping[str, Callable[[], object]] = {
            "network alone": partial(run_bare, session, frames),
            "all else alone": lambda: upscale_video(path, target, Upscaler(nothing, tile=0)),
            "together": lambda: upscale_video(path, target, Upscaler(session)),
        }
        for call in ways.values():
            call()
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                clock, cpu = perf_counter(), process_time()
                call()
                seconds[name].append((perf_counter() - clock, process_time() - cpu))
    cpu_s = {name: [run[1] for run in runs] for name, runs in seconds.items()}
    over = median(
        together / (network + rest)
        for network, rest, together in zip(
            cpu_s["network alone"], cpu_s["all else alone"], cpu_s["together"], strict=True
        )
    )
    met = over <= THREADS_TARGET
    print(
        f"CPU seconds of a clip of {THREADS.frames} frames: network alone {median(cpu_s['network alone']):.2f}, ",
        end="",
    )
    print(f"all else alone {median(cpu_s['all else alone']):.2f}, together {median(cpu_s['together']):.2f}: ", end="")
    print(f"{over:.3f} times, target {THREADS_TARGET}: {'met' if met else 'missed'}")
    return {
        **THREADS._asdict(),
        "cpu_s": cpu_s,
        "clock_s": {name: [run[0] for run in runs] for name, runs in seconds.items()},
        "together_over_alone": over,
        "target": THREADS_TARGET,
        "met": met,
    }


def _nothing() -> Session:
    """A network that repeats pixels."""
    return ReferenceSession(ModelInfo(scale=4, overlap=0))


if __name__ == "__main__":
    main()
