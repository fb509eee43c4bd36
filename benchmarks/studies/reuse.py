"""What stands still in a clip is computed once: the time from file to file beside that of computing everything.

The same clip, without loss, goes through the same code twice; in one of the two, no tile ever passes for unchanged. The
two files are compared. The network is compact-clean.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import av
import numpy as np

from esrgan_deploy import Session, Upscaler, open_session
from esrgan_deploy.backends import Frames
from esrgan_deploy.cli.upscale import CLIP_STREAMS
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.tile_reuse import TileResult
from esrgan_deploy.video import upscale_video
from side_by_side import interleaved, ratio, save

SOURCE = Path(__file__).parents[2] / "tests/data/bigbuckbunny.mp4"
"""320x180, 50 frames, no two alike."""
TILE = 190
"""Two tiles for 320x180, side by side."""
FIRST_MOVING_COLUMN = TILE
"""The first column that belongs to the right tile alone."""
STATIC_FRAMES = 48
DRAWINGS = 10
REPEATED = 4
MOVING_FRAMES = 16

STATIC_TARGET = 1.8
REPEATED_TARGET = 0.9 * REPEATED
COMPARING_TARGET = 0.01


def main() -> None:
    """Measure, print the table, write results/reuse.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each clip and each way (default: 5)")
    rounds = parser.parse_args().rounds
    with open_session(COMPACT_CLEAN, streams=CLIP_STREAMS) as session:
        print(f"{'clip':15} {'frames':>7} {'reused tiles':>13} {'times as fast':>14}")
        static = measure_gain("static camera", static_camera(STATIC_FRAMES), session, TILE, STATIC_TARGET, rounds)
        drawn = repeated(pictures(DRAWINGS), REPEATED)
        repeats = measure_gain(f"repeated by {REPEATED}", drawn, session, 0, REPEATED_TARGET, rounds)
        comparing = measure_comparing(pictures(MOVING_FRAMES), session, rounds)
        backend, precision = session.backend, session.precision
    figures = {"static_camera": static, "repeated": repeats, "comparing": comparing}
    save("reuse", {"rounds": rounds, "backend": backend, "precision": precision, **figures})


def pictures(count: int) -> list[Frames]:
    """The first frames of the source clip: a rabbit in front of its burrow."""
    with av.open(str(SOURCE)) as clip:
        return [picture.to_ndarray(format="rgb24") for picture in islice(clip.decode(video=0), count)]


def static_camera(count: int, first_moving_column: int = FIRST_MOVING_COLUMN) -> list[Frames]:
    """One picture, of which everything from a column on moves by three pixels from frame to frame."""
    (picture,) = pictures(1)
    frames = []
    for i in range(count):
        frame = picture.copy()
        frame[:, first_moving_column:] = np.roll(picture[:, first_moving_column:], 3 * i, axis=1)
        frames.append(frame)
    return frames


def repeated(frames: list[Frames], times: int) -> list[Frames]:
    """Every frame so many times, each time in memory of its own, as from a decoder."""
    return [frame.copy() for frame in frames for _ in range(times)]


def measure_gain(
    name: str, frames: list[Frames], session: Session, tile: int, target: float, rounds: int
) -> dict[str, Any]:
    """How many times as fast a clip is with reuse, and whether the results are equal."""
    upscaler = Upscaler(session, tile=tile)
    with tempfile.TemporaryDirectory() as folder:
        clip, reused, everything = (Path(folder) / name for name in ("clip.mkv", "reused.mp4", "everything.mp4"))
        write_lossless(clip, frames)
        summary = upscale_video(clip, reused, upscaler)
        ways: dict[str, Callable[[], object]] = {
            "everything": partial(compute_everything, clip, everything, upscaler),
            "reuse": partial(upscale_video, clip, reused, upscaler),
        }
        seconds = interleaved(ways, rounds)
        equal = reused.read_bytes() == everything.read_bytes()
    gain = ratio(seconds["everything"], seconds["reuse"])
    met = equal and gain >= target
    print(
        f"{name:15} {len(frames):7} {summary.tiles_reused:13.3f} {gain:14.2f}  target {target:g}: "
        f"{'met' if met else 'missed'}; files {'equal' if equal else 'DIFFER'}",
        flush=True,
    )
    return {
        "frames": len(frames),
        "tile": tile,
        "tiles_reused": summary.tiles_reused,
        "seconds": seconds,
        "gain": gain,
        "equal": equal,
        "target": target,
        "met": met,
    }


def compute_everything(clip: Path, target: Path, upscaler: Upscaler) -> None:
    """`upscale_video` as it would be if nothing ever stood still."""
    with patch.object(TileResult, "holds_for", lambda _self, _tile: False):
        upscale_video(clip, target, upscaler)


def write_lossless(path: Path, frames: list[Frames]) -> None:
    """A clip whose decoded frames are these very ones."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=frames[0].shape[1], height=frames[0].shape[0])
        stream.pix_fmt = "bgr0"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure_comparing(clip: list[Frames], session: Session, rounds: int) -> dict[str, Any]:
    """The share of the time that goes into comparisons where every frame is new, and at worst."""
    upscaler = Upscaler(session, tile=0)
    whole, comparing = [], []
    for _ in range(rounds + 1):
        with stopwatch() as spent:
            begin = perf_counter()
            list(upscaler.map(clip))
            whole.append(perf_counter() - begin)
        comparing.append(sum(spent))
    del whole[0], comparing[0]  # the first run warms up
    share = median(part / all_of_it for part, all_of_it in zip(comparing, whole, strict=True))
    worst = seconds_of_longest_comparison(clip[0]) / (median(whole) / len(clip))
    met = max(share, worst) <= COMPARING_TARGET
    print(
        f"Comparisons take {share:.4%} of the time where all moves, {worst:.4%} where the last pixel alone does: "
        f"target {COMPARING_TARGET:.0%}: {'met' if met else 'missed'}"
    )
    return {
        "frames": len(clip),
        "tiles_reused": upscaler.counts.tiles_reused,
        "seconds": {"whole": whole, "comparing": comparing},
        "share": share,
        "share_at_worst": worst,
        "target": COMPARING_TARGET,
        "met": met,
    }


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Collect the seconds of every comparison."""
    spent: list[float] = []
    compare = TileResult.holds_for

    def timed(self: TileResult, tile: Frames) -> bool:
        begin = perf_counter()
        result = compare(self, tile)
        spent.append(perf_counter() - begin)
        return result

    with patch.object(TileResult, "holds_for", timed):
        yield spent


def seconds_of_longest_comparison(frame: Frames) -> float:
    """Two frames that differ in their last value, which the first look does not see; median of many."""
    other = frame.copy()
    other[-1, -1, -1] += 1
    result = TileResult(frame, 0, detach=False)
    with stopwatch() as spent:
        passed = [result.holds_for(other) for _ in range(100)]
    if any(passed):
        raise RuntimeError("two frames that differ passed for equal")
    return median(spent)


if __name__ == "__main__":
    main()
