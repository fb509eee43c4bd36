"""What backends/ov_graph.py changes in a network for OpenVINO: the speed with each change beside that without it.

`widened`: the last convolution two by two pixels at a time (`widen_last_convolution`). `unsigned`: the activations
of INT8 as uint8 (`unsigned_activations`). All run the same frames in turns. What counts is the median of the ratios
within a round.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from esrgan_deploy import Session, open_session
from esrgan_deploy.backends import ov
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from side_by_side import interleaved, ratio, save

FORMS = {"widened": "widen_last_convolution", "unsigned": "unsigned_activations"}
"""Each change, and the function that makes it."""
SIZES = ((128, 96), (320, 180), (256, 256))


def main() -> None:
    """Measure, print a table, write results/openvino_forms.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, nargs="+", help="ONNX files (default: compact in fp32 and INT8)")
    parser.add_argument("--rounds", type=int, default=21, help="timed runs of each (default: 21)")
    args = parser.parse_args()
    print(f"{'network':32} {'size':>8}   faster by")
    models = args.model or [COMPACT_CLEAN, int8_path(COMPACT_CLEAN)]
    save("openvino_forms", {"results": [compare(m, *size, args.rounds) for m in models for size in SIZES]})


def compare(model: Path, width: int, height: int, rounds: int) -> dict[str, Any]:
    """One network on frames of one size."""
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    quantised = load_onnx(model)[1].precision == "int8"
    forms = [form for form in FORMS if form != "unsigned" or quantised]
    with ExitStack() as stack:
        sessions = {"all": opened(model, without=None)}
        sessions |= {form: opened(model, without=form) for form in forms}
        for session in sessions.values():
            stack.enter_context(session)
        seconds = interleaved({name: partial(session.run, frame) for name, session in sessions.items()}, rounds)
    faster = {form: ratio(seconds[form], seconds["all"]) for form in forms}
    told = ", ".join(f"{form} {value:.3f}x" for form, value in faster.items())
    print(f"{model.stem:32} {f'{width}x{height}':>8}   {told}")
    without = {form: seconds[form] for form in forms}
    return {
        "network": model.stem,
        "size": f"{width}x{height}",
        "seconds": seconds["all"],
        "seconds_without": without,
        "faster_by": faster,
    }


def opened(model: Path, *, without: str | None) -> Session:
    """A session with all changes except one, also where the processor lacks what they are for."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(ov, "features", lambda: {"avx512f", "avx512_vnni"}))
        if without:
            stack.enter_context(patch.object(ov, FORMS[without], lambda graph, *_: graph))
        return open_session(model, "openvino")


if __name__ == "__main__":
    main()
