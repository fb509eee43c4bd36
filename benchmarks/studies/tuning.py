"""What tuning chooses, beside everything that it could have chosen, timed exhaustively in the same run.

Every candidate runs the whole network, with every tile that is smaller than the frame, over the same frames, in turns.
The tuned choice should be within 5 % of the best of them, and found in less than 20 s.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from esrgan_deploy import OptionError, Upscaler, open_session
from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.tuning import LIMIT_S, Candidate, Choice, tune
from esrgan_deploy.tuning.candidates import candidates
from esrgan_deploy.tuning.run_settings import fastest_tile
from side_by_side import export_real, interleaved, ratio, save

NETWORK = "REALESRGAN_X4PLUS_UP4X"
FRAMES = 2
"""One for each stream."""
LARGE = 5e6
"""Operations for each input pixel; networks that need more get a smaller frame, since they take minutes otherwise."""
SIZES = {False: (256, 384), True: (96, 112)}
"""Height and width of the frames, for small networks and for large ones."""
TILES = (None, 160, 256)
WITHIN = 1.05

Frame = npt.NDArray[np.uint8]
Setting = tuple[Candidate, "int | None"]


def main() -> None:
    """Measure, print a table for each network, write results/tuning.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, nargs="+", help="ONNX files (default: compact and x4plus)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"), help="default: auto")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each candidate (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = args.model or [COMPACT_CLEAN, export_real(NETWORK, Path(folder))]
        results = [compare(model, args.precision, args.rounds) for model in models]
    save("tuning", {"precision": args.precision, "results": results})


def compare(model: Path, precision: Any, rounds: int) -> dict[str, Any]:  # noqa: ANN401  # a choice of the parser
    """Tune for a network, and time everything that could have been chosen."""
    graph, info = load_onnx(model)
    height, width = SIZES[(count_flops(graph, 64, 64) or 0) / 64**2 > LARGE]
    choice = tune(model, precision)
    print(f"\n{model.name}: tuned in {choice.seconds:.1f} s: {choice.line()}\n{choice.table()}")
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with contextlib.ExitStack() as stack:
        calls = {
            setting: stack.enter_context(opened(model, setting, frame))
            for setting in settings_of(candidates(model, info, precision), model, height, width)
        }
        chosen = chosen_of(choice, model, height, width)
        seconds = interleaved({str(number): call for number, call in enumerate(calls.values())}, rounds)
    by_setting = dict(zip(calls, seconds.values(), strict=True))
    return report(model, choice, chosen, by_setting, f"{width}x{height}")


def settings_of(found: list[Candidate], model: Path, height: int, width: int) -> list[Setting]:
    """Every candidate with every tile that makes a difference and is larger than its overlap."""
    tiles = [tile for tile in TILES if tile is None or tile < max(height, width)]
    settings = []
    with open_session(model, found[0].backend) as session:
        for tile in tiles:
            with contextlib.suppress(OptionError):
                Upscaler(session, tile=tile)
                settings += [(candidate, tile) for candidate in found]
    return settings


def chosen_of(choice: Choice, model: Path, height: int, width: int) -> Setting:
    """What a clip of such frames would be run with."""
    best = choice.best
    session = open_session(model, best.backend, precision=best.precision, threads=best.threads, streams=best.streams)
    with Upscaler(session) as upscaler:
        return best, fastest_tile(choice, upscaler, height, width)


@contextlib.contextmanager
def opened(model: Path, setting: Setting, frame: Frame) -> Iterator[Callable[[], object]]:
    """What computes `FRAMES` frames with a setting."""
    candidate, tile = setting
    session = open_session(
        model,
        candidate.backend,
        precision=candidate.precision,
        threads=candidate.threads,
        streams=candidate.streams,
    )
    with Upscaler(session, tile=tile) as upscaler:
        yield partial(run, upscaler, frame)


def run(upscaler: Upscaler, frame: Frame) -> None:
    """Frames that differ, since what stands still is not computed again."""
    for _ in upscaler.map(frame + np.uint8(number) for number in range(FRAMES)):
        pass


def report(
    model: Path, choice: Choice, chosen: Setting, seconds: dict[Setting, list[float]], size: str
) -> dict[str, Any]:
    """Print the table and the verdict, and return both."""
    best = min(seconds, key=lambda setting: median(seconds[setting]))
    print(f"{'exhaustive search, ' + size:60} {'s/frame':>8} {'of best':>8}")
    rows = []
    for (candidate, tile), times in sorted(seconds.items(), key=lambda item: median(item[1])):
        name = f"{candidate}, tile {tile or 'as it comes'}"
        slower = ratio(times, seconds[best])
        mark = " <- tuned" if (candidate, tile) == chosen else ""
        print(f"{name:60} {median(times) / FRAMES:8.3f} {slower:7.2f}x{mark}")
        rows.append({"setting": name, "seconds_per_frame": [t / FRAMES for t in times], "slower_than_best": slower})
    behind = ratio(seconds[chosen], seconds[best])
    verdicts = {f"within {WITHIN - 1:.0%}": behind <= WITHIN, f"under {LIMIT_S:.0f} s": choice.seconds < LIMIT_S}
    told = ", ".join(f"{name}: {'yes' if met else 'no'}" for name, met in verdicts.items())
    print(f"The tuned choice takes {behind:.2f}x the time of the best, tuning took {choice.seconds:.1f} s; {told}.")
    return {
        "model": model.name,
        "size": size,
        "tuned": f"{chosen[0]}, tile {chosen[1] or 'as it comes'}",
        "tuned_is_slower_by": behind,
        "tuning_seconds": choice.seconds,
        "met": verdicts,
        "exhaustive": rows,
    }


if __name__ == "__main__":
    main()
