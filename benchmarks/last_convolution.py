"""The last convolution two by two pixels at a time (backends/last_convolution.py), beside the plain one, in OpenVINO.

Both run the same frames in turns. What counts is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from side_by_side import interleaved, ratio, save

from esrgan_deploy import open_session
from esrgan_deploy.backends import ov
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.backends.last_convolution import widen_last_convolution
from esrgan_deploy.models import BUNDLED

SIZES = ((128, 96), (320, 180), (256, 256))


def main() -> None:
    """Measure, print a table, write results/last_convolution.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, nargs="+", help="ONNX files (default: compact in fp32 and INT8)")
    parser.add_argument("--rounds", type=int, default=21, help="timed runs of each (default: 21)")
    args = parser.parse_args()
    print(f"{'network':32} {'size':>8} {'faster by':>9}")
    models = args.model or [BUNDLED, int8_path(BUNDLED)]
    save("last_convolution", {"results": [compare(m, *size, args.rounds) for m in models for size in SIZES]})


def compare(model: Path, width: int, height: int, rounds: int) -> dict[str, Any]:
    """One network on frames of one size."""
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    with patch.object(ov, "features", lambda: {"avx512f"}):
        with patch.object(ov, "widen_last_convolution", lambda graph, _: graph):
            plain = open_session(model, "openvino")
        with patch.object(ov, "widen_last_convolution", widen_last_convolution):
            widened = open_session(model, "openvino")
    with plain, widened:
        seconds = interleaved({"plain": partial(plain.run, frame), "widened": partial(widened.run, frame)}, rounds)
    faster = ratio(seconds["plain"], seconds["widened"])
    print(f"{model.stem:32} {f'{width}x{height}':>8} {faster:8.3f}x")
    return {"network": model.stem, "size": f"{width}x{height}", "seconds": seconds, "faster_by": faster}


if __name__ == "__main__":
    main()
