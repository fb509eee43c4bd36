"""Whether esrgan-upscale ever stands still at its start: many starts on a clip of five frames, each with a time limit.

8 and 10 bits per sample, one stream and two (one thread and two), on this machine as it is and beside processes that
keep every core busy. The kinds of starts take turns, so that a machine that grows busier meets all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
from av.video.stream import VideoStream

from side_by_side import save

FRAMES = 5
SIZE = 96, 72
BITS = {8: ("libx264", "yuv420p"), 10: ("libx265", "yuv420p10le")}
BURN = "while True: pass"


@dataclass
class Kind:
    """One kind of start, and what became of all of its kind."""

    code: str
    """"now", or "before": the command that --before names."""
    bits: int
    streams: int
    burners: int
    """Processes beside it that do nothing but compute."""
    hung: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of the starts that ended by themselves."""

    @property
    def starts(self) -> int:
        """So far."""
        return len(self.seconds) + self.hung


def main() -> None:
    """Start, count, print a table, write results/soak.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--starts", type=int, default=304, help="of this code, over all kinds (default: 304)")
    add("--limit", type=float, default=60, metavar="S", help="seconds after which a start counts as hung (default: 60)")
    add("--before", type=Path, metavar="COMMAND", help="esrgan-upscale of another version, to count as well")
    add("--before-starts", type=int, default=40, metavar="N", help="of that one, over all kinds (default: 40)")
    add("--before-limit", type=float, default=20, metavar="S", help="seconds of one of its starts (default: 20)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clips = {bits: make_clip(Path(name) / f"{bits}.mp4", *BITS[bits]) for bits in BITS}
        now = Path(sys.executable).with_name("esrgan-upscale")
        kinds = soak("now", now, clips, args.starts, args.limit)
        if args.before:
            kinds += soak("before", args.before, clips, args.before_starts, args.before_limit)
    report(kinds)
    results = [{**asdict(kind), "starts": kind.starts} for kind in kinds]
    save("soak", {"frames": FRAMES, "limit_s": args.limit, "before_limit_s": args.before_limit, "results": results})


def report(kinds: Sequence[Kind]) -> None:
    """Print the table and whether the target is met."""
    columns = ("code", "bits", "streams", "burners", "starts", "hung", "failed")
    print("".join(f"{name:>9}" for name in (*columns, "median s")))
    for kind in kinds:
        usual = f"{median(kind.seconds):.2f}" if kind.seconds else "-"
        print("".join(f"{value:>9}" for value in (*(getattr(kind, name) for name in columns), usual)))
    ours = [kind for kind in kinds if kind.code == "now"]
    hung, starts = sum(kind.hung for kind in ours), sum(kind.starts for kind in ours)
    print(f"{hung} of {starts} starts hung: target of none {'missed' if hung else 'met'}")


def soak(code: str, command: Path, clips: dict[int, Path], starts: int, limit_s: float) -> list[Kind]:
    """Start `command` at least `starts` times, each kind as often as the others."""
    cores = os.cpu_count() or 1
    kinds = [Kind(code, *parts) for parts in itertools.product(BITS, (1, 2), (0, cores))]
    for _ in range(-(-starts // len(kinds))):
        for kind in kinds:
            target = clips[kind.bits].with_name("out.mp4")
            arguments = ["-o", str(target), "-b", "openvino", "--threads", str(kind.streams)]
            with busy(kind.burners):
                start(kind, [command, clips[kind.bits], *arguments], limit_s)
            target.unlink(missing_ok=True)
    return kinds


def start(kind: Kind, command: Sequence[str | os.PathLike[str]], limit_s: float) -> None:
    """Start once and note what became of it."""
    # The other version must import its own modules.
    environment = {name: value for name, value in os.environ.items() if kind.code == "now" or name != "PYTHONPATH"}
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        kind.hung += 1
    else:
        kind.seconds.append(time.perf_counter() - begin)
        kind.failed += done.returncode != 0
        if done.returncode:
            print(f"{kind.code}, {kind.bits} bits: exit {done.returncode}: {done.stderr.decode()[-500:]}", flush=True)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes compute meanwhile."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(processes)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def make_clip(target: Path, codec: str, pixel_format: str) -> Path:
    """Noise, so that no frame is taken for the one before."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(target), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixel_format
        for index in range(FRAMES):
            pixels = np.random.default_rng(index).integers(0, 65536, (SIZE[1], SIZE[0], 3)).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format=pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
