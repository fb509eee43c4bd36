"""The ONNX Runtime rows of gpu_check.py: RRDBNet-23 in fp16, uint8 frames from and to host memory.

    python benchmarks/studies/gpu_onnxruntime.py FOLDER WxH ...

Every row is a line of JSON, printed as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from esrgan_bench.rounds import seconds_of
from esrgan_deploy import EsrganError, Session, open_session
from gpu_check import NAME

BACKENDS = ("ort-cuda", "ort-tensorrt")
RUNS = 10


def main() -> None:
    """Print a row for each provider and shape; what cannot be used here is said on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what gpu_networks.py wrote")
    parser.add_argument("shapes", nargs="+", help="WxH of frames")
    args = parser.parse_args()
    failed = 0
    for backend in BACKENDS:
        try:
            with open_session(args.folder / f"{NAME}_a1_fp16.onnx", backend) as session:
                for shape in args.shapes:
                    print(json.dumps(measure(session, shape)), flush=True)
        except EsrganError as error:
            print(error, file=sys.stderr)
            failed += 1
    sys.exit(failed == len(BACKENDS))


def measure(session: Session, shape: str) -> dict[str, Any]:
    """Run a random frame of one shape, once to warm up and `RUNS` times for the row."""
    width, height = map(int, shape.split("x"))
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    session.prepare((1, height, width), "uint8")
    session.run(frame)
    ms = [1e3 * seconds_of(lambda: session.run(frame)) for _ in range(RUNS)]
    return {"row": f"{session.backend}, host frames", "shape": shape, "ms": ms, "fps": 1e3 / median(ms)}


if __name__ == "__main__":
    main()
