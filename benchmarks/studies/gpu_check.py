"""Everything that needs a GPU, in one command of at most eight minutes: tests marked `gpu`, then all figures.

    python benchmarks/studies/gpu_check.py [--tensorrt-python PYTHON] [--networks FOLDER]

Each part runs in a process of its own, under the time that is left, and prints its rows as it measures them; so a part
that crashes, hangs or lacks a package costs its own rows only. What there is goes into results/gpu_check.json after
every part, failures included. torch and TensorRT may live in two interpreters: `--tensorrt-python` names the second.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from esrgan_deploy.cuda.gpu import find_gpu
from esrgan_deploy.errors import MachineError
from side_by_side import save

HERE = Path(__file__).parent
NAME, ALPHA = "rrdbnet23", 0.35
"""First part of the names of the files that the parts share, and the alpha that is set in the test of a refit."""
SHAPES = ("320x180", "640x360", "1280x720")
MINUTES = 8.0
QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,memory.total"
TARGETS = {
    "share of the GEMM peak, engine alone": 0.45,
    "engine over the better of eager and torch.compile": 1.5,
    "submit over engine alone, uint8 host frames": 0.95,
    "PSNR of the engine to fp32, least photo": 50.0,
}
TESTS = HERE.parents[1] / "tests"
TENSORRT_TESTS = ("runtime/engines/test_trt_gpu.py", "runtime/engines/test_find_gpu.py")
"""Named, since what other files import need not be installed beside TensorRT: then pytest would run no test at all."""
OTHER_TESTS = ("runtime/engines/test_ort_gpu.py", "export/test_network_session.py")
MOST = {"refit over build": 0.1, "host copies of run_device": 0.0}
"""Targets from above; those in `TARGETS` are from below."""


@dataclass
class Part:
    """One process, and what it printed."""

    name: str
    command: list[str]
    limit_s: float
    """It is stopped after so many seconds, or earlier when the time for all parts is over."""
    seconds: float = 0.0
    outcome: str = "not run: no time was left"
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    """The end of everything else that it printed."""
    sm_mhz: float | None = None
    watts: float | None = None
    """Medians of the clock and the power while it ran, as nvidia-smi says twice a second."""


def main() -> None:
    """Run all parts; write results/gpu_check.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorrt-python", default=sys.executable, help="interpreter that has TensorRT")
    parser.add_argument("--networks", type=Path, help="what gpu_networks.py wrote (default: it is run)")
    args = parser.parse_args()
    try:
        facts = find_gpu()
    except MachineError as error:
        sys.exit(f"gpu_check: {error}")
    deadline = time.monotonic() + 60 * MINUTES
    with tempfile.TemporaryDirectory() as folder:
        parts = all_parts(args.networks, args.tensorrt_python, Path(folder))
        for part in parts:
            left = deadline - time.monotonic()
            if left > 1:
                execute(part, min(part.limit_s, left))
            print(f"{part.name}: {part.outcome} ({part.seconds:.0f} s)", *map(brief, part.rows), sep="\n  ", flush=True)
            rows = [row for part in parts for row in part.rows]
            gpu = {**asdict(facts), "nvidia_smi": nvidia_smi()}
            save("gpu_check", {"gpu": gpu, "parts": [asdict(part) for part in parts], "verdict": judge(rows)})
    for line in judge(rows):
        print(f"{line['target']}: {line['value']}, aim {line['aim']}: {'met' if line['met'] else 'missed'}")
    sys.exit(any(part.outcome != "done" for part in parts))


def all_parts(networks: Path | None, tensorrt: str, folder: Path) -> list[Part]:
    """All parts in their order: the references that others are compared with come first."""
    own, parts = sys.executable, []
    if networks is None:
        networks = folder / "networks"
        parts.append(Part("networks", [own, str(HERE / "gpu_networks.py"), str(networks)], 90))
    tests = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    torch = [own, str(HERE / "gpu_torch.py"), str(networks)]
    return [
        *parts,
        Part("GEMM peak", [*torch, "peak"], 40),
        Part("torch eager", [*torch, "eager", *SHAPES], 60),
        Part("TensorRT", [tensorrt, str(HERE / "gpu_tensorrt.py"), str(networks), *SHAPES], 300),
        Part("tests", [tensorrt, *tests, *(str(TESTS / name) for name in TENSORRT_TESTS)], 150),
        Part("ONNX Runtime", [own, str(HERE / "gpu_onnxruntime.py"), str(networks), *SHAPES], 60),
        Part("torch.compile", [*torch, "compile", *SHAPES[:2]], 120),
        Part("other tests", [own, *tests, *(str(TESTS / name) for name in OTHER_TESTS)], 60),
    ]


def execute(part: Part, limit_s: float) -> None:
    """Run one part; its lines of JSON become rows, also those that it printed before it was stopped."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, clocks_recorded(part):
        process = subprocess.Popen(part.command, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            code = process.wait(limit_s)
            part.outcome = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            part.outcome = f"stopped after {limit_s:.0f} s"
        output.seek(0)
        lines = output.read().splitlines()
    part.seconds = time.monotonic() - start
    part.rows = [json.loads(line) for line in lines if line.startswith('{"row"')]
    part.log = "\n".join(line for line in lines if not line.startswith('{"row"'))[-4000:]


@contextmanager
def clocks_recorded(part: Part) -> Iterator[None]:
    """Record the GPU's clock and power while the block runs; they stay None where there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "--loop-ms=500"]
    if shutil.which("nvidia-smi") is None:
        yield
        return
    with tempfile.TemporaryFile("w+") as output:
        monitor = subprocess.Popen(query, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            monitor.terminate()
            monitor.wait()
        output.seek(0)
        samples = [line.split(", ") for line in output if re.fullmatch(r"[\d.]+, [\d.]+\n", line)]
    if samples:
        part.sm_mhz, part.watts = (median(map(float, column)) for column in zip(*samples, strict=True))


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target for which there are figures, at every shape."""
    verdict = []

    def add(target: str, shape: str, value: float) -> None:
        met = value <= MOST[target] if target in MOST else value >= TARGETS[target]
        aim = MOST.get(target, TARGETS.get(target))
        verdict.append({"target": f"{target}, {shape}", "value": round(value, 4), "aim": aim, "met": met})

    peaks = [row["tflops"] for row in rows if row["row"].startswith("torch GEMM")]
    for row in rows:
        shape, name = row["shape"], row["row"]
        if name == "engine":
            torch = [r for r in rows if r["row"].startswith(("torch eager", "torch compile"))]
            others = [median(r["ms"]) for r in torch if r["shape"] == shape]
            if peaks and row["tflops"]:
                add("share of the GEMM peak, engine alone", shape, row["tflops"] / max(peaks))
            if others:
                add("engine over the better of eager and torch.compile", shape, min(others) / median(row["ms"]))
        elif name == "submit":
            add("submit over engine alone, uint8 host frames", shape, row["fps"] / row["engine_fps"])
        elif name == "device":
            add("host copies of run_device", shape, row["host_copies"])
        elif name == "refit":
            add("refit over build", shape, row["seconds"] / row["build_seconds"])
        elif name == "fidelity":
            add("PSNR of the engine to fp32, least photo", shape, row["db"])
    return verdict


def brief(row: dict[str, Any]) -> str:
    """A row for the terminal: lists of times become their median."""
    figures = {key: median(value) if isinstance(value, list) else value for key, value in row.items() if key != "row"}
    cells = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()]
    return ", ".join([row["row"], *cells])


def nvidia_smi() -> dict[str, str]:
    """Clocks, power and memory as the driver tells them now."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(QUERY.split(","), done.stdout.splitlines()[0].split(", "), strict=False))


if __name__ == "__main__":
    main()
