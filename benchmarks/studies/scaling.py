"""What a pixel costs, from a small picture to a 4k frame, and which memory that takes beside the frames themselves.

Each size is a picture in a process of its own, from a network that has just been loaded: once in memory that was never
used, as a single picture is, and, where that is not too long, once more, as the frames of a clip are. Before and after
it a small picture is timed in the same process, because machines change their speed, and costs are ratios to that.
They are told in seconds of the clock, and in those of the processors, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from esrgan_deploy.models import COMPACT_CLEAN
from side_by_side import save

SHAPES = ((128, 128), (256, 256), (640, 360), (1280, 720), (1920, 1080), (3840, 2160))
SMALL = 128
SMALL_RUNS = 15
LONG_S = 20.0
"""A picture that takes longer is upscaled once only."""
COST_TARGET = 1.1
MEMORY_TARGET = 1.1


def main() -> None:
    """Measure, print the table, write results/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=COMPACT_CLEAN, help="ONNX file (default: compact-clean)")
    parser.add_argument("-b", "--backend", default="openvino", help="as for esrgan-upscale (default: openvino)")
    parser.add_argument("--shapes", type=_shape, nargs="+", default=SHAPES, metavar="WxH", help="of the pictures")
    parser.add_argument("--child", type=_shape, metavar="WxH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.model, args.backend, *args.child)))
        return
    print(HEAD)
    rows: list[dict[str, Any]] = []
    for width, height in args.shapes:
        command = [sys.executable, __file__, "-m", str(args.model), "-b", args.backend, "--child", f"{width}x{height}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(_row(rows[-1]), flush=True)
    figures = {**_verdict(rows), "network": args.model.name, "backend": args.backend, "results": rows}
    save("scaling", figures)


def measure(model: Path, backend: str, width: int, height: int) -> dict[str, Any]:
    """Upscale one picture of noise; these networks take the same time for every picture."""
    import numpy as np

    from esrgan_deploy import Upscaler, open_session
    from esrgan_deploy.system.memory import peak_rss_mib, reset_peak_rss, rss_mib

    random = np.random.default_rng(0)
    small, frame = (random.integers(0, 256, (*size, 3), np.uint8) for size in ((SMALL, SMALL), (height, width)))
    with Upscaler(open_session(model, backend)) as upscaler:
        upscaler.upscale(small)
        loaded_mib = rss_mib()

        def timed(picture: Any) -> Any:  # noqa: ANN401  # arrays
            """Seconds of the clock, and of the processors."""
            begin = perf_counter(), process_time()
            upscaler.upscale(picture)
            return np.subtract((perf_counter(), process_time()), begin)

        def small_s() -> Any:  # noqa: ANN401
            return np.median([timed(small) for _ in range(SMALL_RUNS)], axis=0)

        small_before = small_s()
        reset_peak_rss()
        first = timed(frame)
        peak_mib = peak_rss_mib()
        again = timed(frame) if first[0] < LONG_S else None
        small_cost = (small_before + small_s()) / 2 / SMALL**2
        tiles = upscaler.tiles_of(height, width)
        scale = upscaler.scale
    tall, wide = (tiles.rows.tile, tiles.columns.tile) if tiles else (height, width)
    pixels = width * height
    costs = (first if again is None else again) / pixels / small_cost
    beside_mib = peak_mib - loaded_mib - frame.nbytes * scale**2 / 2**20
    return {
        "width": width,
        "height": height,
        "tiles": len(tiles) if tiles else 1,
        "tile": [wide, tall],
        "computed_share": tiles.overhead if tiles else 1.0,
        "first_s": first[0],
        "again_s": None if again is None else again[0],
        "small_us_per_pixel": small_cost[0] * 1e6,
        "first_cost": first[0] / pixels / small_cost[0],
        "cost": costs[0],
        "cpu_cost": costs[1],
        "peak_rss_mib": peak_mib,
        "beside_frames_mib": beside_mib,
        "kb_per_tile_pixel": beside_mib * 1024 / (tall * wide),
    }


def _shape(text: str) -> tuple[int, int]:
    width, height = (int(size) for size in text.split("x"))
    return width, height


_COLUMNS = {
    **{"picture": 10, "tiles": 16, "computed": 9, "us/px": 7, "first": 6, "cost": 6, "of CPU": 6},
    **{"peak MiB": 9, "kB/tile px": 10},
}
HEAD = " ".join(title.rjust(width) for title, width in _COLUMNS.items())


def _row(row: Mapping[str, Any]) -> str:
    """One line under `HEAD`; costs are those of a pixel, relative to the small picture's."""
    size, tile = (f"{width}x{height}" for width, height in ((row["width"], row["height"]), row["tile"]))
    us = (row["again_s"] or row["first_s"]) / row["width"] / row["height"] * 1e6
    return (
        f"{size:>10} {row['tiles']:>4} x {tile:>9} {row['computed_share']:9.3f} {us:7.2f} {row['first_cost']:6.2f} "
        f"{row['cost']:6.2f} {row['cpu_cost']:6.2f} {row['peak_rss_mib']:9.0f} {row['kb_per_tile_pixel']:10.2f}"
    )


def _verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether costs are flat, and whether memory follows the tile: that of the largest picture beside a smaller one."""
    most = max(row["cost"] for row in rows)
    tiled = [row for row in rows if row["tiles"] > 1]
    growth = tiled[-1]["kb_per_tile_pixel"] / tiled[0]["kb_per_tile_pixel"] if len(tiled) > 1 else None
    met = most <= COST_TARGET
    print(f"Largest cost {most:.3f} of that at {SMALL}x{SMALL}, target {COST_TARGET}: {'met' if met else 'missed'}")
    if growth is not None:
        word = "met" if growth <= MEMORY_TARGET else "missed"
        print(f"Memory beside the frames, per pixel of a tile: {growth:.3f} times, target {MEMORY_TARGET}: {word}")
    return {
        "largest_cost": most,
        "cost_target": COST_TARGET,
        "cost_met": met,
        "memory_growth": growth,
        "memory_target": MEMORY_TARGET,
        "memory_met": None if growth is None else growth <= MEMORY_TARGET,
    }


if __name__ == "__main__":
    main()
