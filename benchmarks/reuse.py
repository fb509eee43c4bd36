"""What stands still in a clip is computed once: the time of `Upscaler.map` beside that of computing everything.

The same frames go through the same code twice; in one of the two, no tile ever passes for unchanged. All frames that
come out are compared. The network is the bundled compact one.
"""

from __future__ import annotations

import argparse
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
from side_by_side import interleaved, ratio, save

from esrgan_deploy import Session, Upscaler, open_session
from esrgan_deploy.backends import Frames
from esrgan_deploy.models import BUNDLED
from esrgan_deploy.reuse import TileResult

SOURCE = Path(__file__).parent.parent / "tests/data/bigbuckbunny.mp4"
"""320x180, 50 frames, no two alike."""
TILE = 190
"""Two tiles for 320x180, side by side."""
FIRST_MOVING_COLUMN = TILE
"""The first column that belongs to the right tile alone."""
STATIC_FRAMES = 30
DRAWINGS = 4
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
    with open_session(BUNDLED) as session:
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
    name: str, clip: list[Frames], session: Session, tile: int, target: float, rounds: int
) -> dict[str, Any]:
    """How many times as fast a clip is with reuse, and whether the results are equal."""
    upscaler = Upscaler(session, tile=tile)
    expected = compute_everything(upscaler, clip)
    upscaler = Upscaler(session, tile=tile)
    results = list(upscaler.map(clip))
    counts = upscaler.counts
    equal = all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))
    ways: dict[str, Callable[[], object]] = {
        "everything": partial(compute_everything, upscaler, clip),
        "reuse": lambda: list(upscaler.map(clip)),
    }
    share = counts.tiles_reused / counts.tiles
    seconds = interleaved(ways, rounds)
    gain = ratio(seconds["everything"], seconds["reuse"])
    met = equal and gain >= target
    print(
        f"{name:15} {len(clip):7} {share:13.3f} {gain:14.2f}  target {target:g}: {'met' if met else 'missed'}; "
        f"results {'equal' if equal else 'DIFFER'}"
    )
    return {
        "frames": len(clip),
        "tile": tile,
        "tiles": counts.tiles,
        "tiles_reused": counts.tiles_reused,
        "seconds": seconds,
        "gain": gain,
        "equal": equal,
        "target": target,
        "met": met,
    }


def compute_everything(upscaler: Upscaler, clip: list[Frames]) -> list[Frames]:
    """`Upscaler.map` as it would be if nothing ever stood still."""
    with patch.object(TileResult, "holds_for", lambda _self, _tile: False):
        return list(upscaler.map(clip))


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
