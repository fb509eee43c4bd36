"""Runs that are killed: whether the file is the same in the end, and how much is done twice.

Each of the kills is a SIGKILL at a random moment of a run of its own, which is then resumed to its end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from esrgan_deploy.video import parts_of
from side_by_side import save
from video_pipeline import Clip, make_clip

SEGMENT = 50
CLIP = Clip(160, 90, 300)
RUN = """
import os, sys
from pathlib import Path
from esrgan_deploy import Upscaler
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.video import VideoOptions, upscale_video
source, target, segment, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), bool(int(sys.argv[4]))
progress = lambda done, total: os.write(1, b"%d\\n" % done)
upscale_video(source, target, Upscaler(ReferenceSession()), VideoOptions(segment_frames=segment), resume=resume,
              progress=progress)
"""


def main() -> None:
    """Kill, resume, compare; write results/crash.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="default: 20")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(CLIP, folder / "clip.mp4")
        begin = time.perf_counter()
        run(folder / "whole.mp4", resume=False)
        usual_s = time.perf_counter() - begin
        expected = sha256(folder / "whole.mp4")
        kills = [kill_once(folder, chance.uniform(0.3, 1.0) * usual_s, expected) for _ in range(args.kills)]
    identical = sum(kill["identical"] for kill in kills)
    twice = [kill["done_twice"] for kill in kills]
    print(
        f"{len(kills)} kills: {identical} identical files; "
        f"frames done twice: median {median(twice)}, most {max(twice)} (a segment has {SEGMENT})"
    )
    save("crash", {"segment_frames": SEGMENT, "seed": args.seed, "kills": kills})


def kill_once(folder: Path, after_s: float, expected: str) -> dict[str, float | int | bool]:
    """Kill a run after some seconds, resume it, and say what became of it."""
    target = folder / "out.mp4"
    with subprocess.Popen(command(target, resume=False), stdout=subprocess.PIPE) as child:
        time.sleep(after_s)
        child.kill()
        assert child.stdout
        numbers = child.stdout.read().split()
    done = int(numbers[-1]) if numbers else 0
    journal = parts_of(target) / "journal.jsonl"
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    kept = done if target.exists() else sum(json.loads(line)["frames"] for line in lines[1:])
    if not target.exists():
        run(target, resume=True)
    identical = sha256(target) == expected and not parts_of(target).exists()
    print(f"killed after {after_s:.2f} s: {done} frames upscaled, {kept} kept; identical: {identical}", flush=True)
    target.unlink()
    shutil.rmtree(parts_of(target), ignore_errors=True)
    return {"after_s": after_s, "upscaled": done, "kept": kept, "done_twice": done - kept, "identical": identical}


def run(target: Path, *, resume: bool) -> None:
    """A run to its end."""
    subprocess.run(command(target, resume=resume), check=True, stdout=subprocess.DEVNULL)


def command(target: Path, *, resume: bool) -> list[str | os.PathLike[str]]:
    """A run in a process of its own, which prints the number of each frame that it has upscaled."""
    return [sys.executable, "-c", RUN, target.with_name("clip.mp4"), target, str(SEGMENT), str(int(resume))]


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
