"""Everybody who runs these networks on a CPU, side by side in one run: speed, and what it costs in quality.

Every contender is a process of its own, gets the same uint8 frame and returns the enlarged uint8 frame, on all cores
that it takes by default. A round sends one photo to each of them, one after the other; those that wait are stopped.
Ratios are medians over the rounds of the ratio within a round. PSNR compares the frames that were returned, after
rounding to 8 bits, with those of PyTorch in fp32; 100 dB stands for equal frames.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_deploy.flops import count_flops
from esrgan_deploy.model import load_onnx
from esrgan_export.photos import load_photos
from peers_lineup import Start, Subject, compact, lineup, rrdbnet23
from peers_messages import Pixels, Ready, Upscaled
from peers_process import Contender, UnavailableError
from peers_table import describe, judge, markdown
from side_by_side import save

NETWORKS: dict[str, Callable[[Path, Path | None, Path | None], Subject]] = {"rrdbnet": rrdbnet23, "compact": compact}
ROUNDS_EACH = {"rrdbnet": 1, "compact": 3}
"""For each round that is asked for: the compact network takes a thirtieth of the time."""
START_LIMIT_S = 240.0
"""Until a contender has upscaled a first frame, while all others load. Longest takes torch.compile, the first time."""
TIMED = "from an uint8 RGB frame in host memory to the enlarged one, conversion to float and back included"


def main() -> None:
    """Measure, print tables, write results/peers.json."""
    args = _arguments()
    results: dict[str, Any] = {}
    for name in args.networks:
        with tempfile.TemporaryDirectory(prefix="esrgan-peers-") as folder:
            subject = NETWORKS[name](Path(folder), getattr(args, f"int8_{name}"), args.calibrate)
            results[name] = measure(subject, Path(folder), args.rounds * ROUNDS_EACH[name], name)
        # After each network, so that what was measured survives an interruption.
        save("peers", {"timed": TIMED, "complete": len(results) == len(args.networks), "networks": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="timed frames of each contender, three times as many of the compact one")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    add("--int8-rrdbnet", type=Path, metavar="FILE", help="INT8 file of Real-ESRGAN x4plus")
    add("--int8-compact", type=Path, metavar="FILE", help="INT8 file of the compact network")
    add("--calibrate", type=Path, metavar="DIR", help="pictures to export those that are not given, with esrgan-export")
    args = parser.parse_args()
    for option in ("int8_rrdbnet", "int8_compact", "calibrate"):
        path = getattr(args, option)
        if path is not None and not path.exists():
            parser.error(f"--{option.replace('_', '-')} {path}: does not exist")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: must be at least 1")
    return args


def measure(subject: Subject, folder: Path, rounds: int, name: str) -> dict[str, Any]:
    """All contenders on one network: print the table and the verdict, and return them."""
    photos = list(load_photos().values())
    height, width, _ = photos[0].shape
    flops = count_flops(load_onnx(subject.onnx)[0], height, width)
    assert flops is not None
    print(f"\n{subject.title}, frames of {width}x{height}, {rounds} rounds\n")
    with ExitStack() as stack:
        contenders, ready, missing = start(lineup(subject, folder, (height, width)), stack)
        answers = race(contenders, photos, rounds, missing)
        memory = {who: contenders[who].peak_rss_mib for who in answers}
    rows = describe(answers, ready, memory, flops)
    verdict = judge(name, rows)
    print(markdown(rows), *(f"{who}: not measured, {why}" for who, why in missing.items()), "", sep="\n")
    print(*(target["text"] for target in verdict), sep="\n")
    facts = {"title": subject.title, "width": width, "height": height, "flops_per_frame": flops, "rounds": rounds}
    return {**facts, "results": rows, "not_measured": missing, "targets": verdict}


def start(
    everybody: Mapping[str, Start], stack: ExitStack
) -> tuple[dict[str, Contender], dict[str, Ready], dict[str, str]]:
    """Start all contenders side by side, and wait until each is ready or it is clear why it is not.

    Returns:
        The contenders, what they say of themselves, and those who cannot take part with the reason. `stack` ends them.
    """
    started: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, begin in everybody.items():
        try:
            started[name] = stack.enter_context(begin())
        except UnavailableError as reason:
            missing[name] = str(reason)
    ready: dict[str, Ready] = {}
    for name, contender in started.items():
        try:
            ready[name] = contender.wait_until_ready(START_LIMIT_S)
        except UnavailableError as reason:
            missing[name] = str(reason)
            contender.close()
    return {name: started[name] for name in ready}, ready, missing


def race(
    contenders: Mapping[str, Contender], photos: Sequence[Pixels], rounds: int, missing: dict[str, str]
) -> dict[str, list[Upscaled]]:
    """The answers of each contender, one for each round. Who fails on the way is moved to `missing`.

    A round sends one photo to every contender, and every other round goes through them in reverse, so that a machine
    that grows slower or busier meets all of them alike.
    """
    answers: dict[str, list[Upscaled]] = {name: [] for name in contenders}
    for i, photo in enumerate(islice(cycle(photos), rounds)):
        for name in list(answers)[:: -1 if i % 2 else 1]:
            try:
                answers[name].append(contenders[name].upscale(np.ascontiguousarray(photo)))
            except UnavailableError as reason:
                missing[name] = str(reason)
                del answers[name]
    return answers


if __name__ == "__main__":
    main()
