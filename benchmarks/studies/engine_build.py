"""How long TensorRT takes to build an engine on the CPU of this machine, and how much memory that needs.

Each build is a process of its own that does what `esrgan-engine` does: read the ONNX file, frame it, parse it, compile
it. Without a GPU that is TensorRT-RTX; elsewhere whatever TensorRT is installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from esrgan_deploy.engine.adapter import load_tensorrt
from esrgan_deploy.engine.build.plan import build_plan
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.frame_io import FrameType
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from side_by_side import export_real, save

TARGET_S = 60.0
TARGET_BYTES = 2 << 30
NAMES = {"rrdb": "RRDBNet-23 FP16", "srvgg": "SRVGG-16 FP16", "bundled": "bundled compact FP32"}
PROFILES = ("1x360x640", "1x64x64-1x360x640-4x720x1280")


def main() -> None:
    """Measure, print a table, write results/engine_build.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="builds of each kind (default: 3)")
    parser.add_argument("--child", nargs=3, metavar=("ONNX", "PROFILE", "FRAMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measure(*options.child)))
        return
    rows = []
    print(f"{'':22} {'profile':30} {'frames':8} {'build s':>8} {'process s':>10} {'peak MB':>8} {'plan MB':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _networks(Path(folder)).items():
            for profile, frames in ((PROFILES[0], "uint8"), (PROFILES[0], "uint16"), (PROFILES[1], "uint8")):
                row = _rounds(path, profile, frames, options.rounds)
                rows.append({"network": NAMES[name], "profile": profile, "frames": frames, **row})
                print(
                    f"{NAMES[name]:22} {profile:30} {frames:8} {row['build_s']:8.2f} {row['process_s']:10.2f} "
                    f"{row['peak_bytes'] / 1e6:8.0f} {row['plan_bytes'] / 1e6:8.1f}"
                )
    large = [row for row in rows if row["network"] == NAMES["rrdb"]]
    slowest, highest = max(row["build_s"] for row in large), max(row["peak_bytes"] for row in large)
    met = slowest < TARGET_S and highest < TARGET_BYTES
    print(f"Target for RRDBNet-23 FP16, under {TARGET_S:.0f} s and 2 GiB: {'met' if met else 'missed'}.")
    targets = {"seconds": TARGET_S, "bytes": TARGET_BYTES, "met": met}
    save(
        "engine_build", {"library": str(load_tensorrt()), "rounds": options.rounds, "targets": targets, "results": rows}
    )


def _networks(folder: Path) -> dict[str, Path]:
    """Real networks, in half precision as they would be deployed, and the smallest that is bundled."""
    import onnx

    from esrgan_export.precision import to_precision

    paths = {"bundled": COMPACT_CLEAN}
    for key, name in (("srvgg", "REALESRGAN_ANIMAVIDEOV3_UP4X"), ("rrdb", "REALESRGAN_X4PLUS_UP4X")):
        paths[key] = export_real(name, folder)
        onnx.save(to_precision(onnx.load(paths[key]), "fp16"), paths[key])
    return paths


def _rounds(path: Path, profile: str, frames: str, rounds: int) -> dict[str, Any]:
    """Medians of the times and the largest peak, over builds in fresh processes."""
    found = []
    for _ in range(rounds):
        start = time.monotonic()
        command = [sys.executable, __file__, "--child", str(path), profile, frames]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append({**json.loads(done.stdout), "process_s": time.monotonic() - start})
    return {
        "build_s": median(one["build_s"] for one in found),
        "process_s": median(one["process_s"] for one in found),
        "peak_bytes": max(one["peak_bytes"] for one in found),
        "plan_bytes": found[0]["plan_bytes"],
    }


def _measure(path: str, profile: str, frames: FrameType) -> dict[str, float]:
    """One build in this process."""
    model, info = load_onnx(Path(path))
    options = EngineOptions(Profile.parse(profile), frames)
    plan = build_plan(
        load_tensorrt(), model, info, Path(path), options, free_memory=None, progress=lambda phase, done, total: None
    )
    if plan.notes:
        raise SystemExit("; ".join(plan.notes))
    return {"build_s": plan.seconds, "peak_bytes": _peak_bytes(), "plan_bytes": len(plan.data)}


def _peak_bytes() -> int:
    """Largest resident size of this program; getrusage would also count the process that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
