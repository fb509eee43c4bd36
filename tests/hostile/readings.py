"""What Pillow and FFmpeg's own programs read in a file, independently of the code under test."""

import json
import shutil
import subprocess
import warnings
from pathlib import Path

SCALE = 4
LOSSY = (".jpg", ".jpeg", ".webp")


def check(output, folder):
    """Faults of a file that was written with exit code 0."""
    path = folder / output.path
    if not path.exists():
        return
    if output.same_as and path.read_bytes() != Path(output.same_as).read_bytes():
        yield "wrong", f"{output.path} differs from {Path(output.same_as).name}"
    if output.kind == "picture":
        yield from _picture(output, path, folder)
    elif output.kind == "clip":
        yield from _clip(output, path, folder)
    elif output.kind == "onnx" and (problem := fault_of(path)):
        yield "wrong", f"{output.path}: {problem}"


def fault_of(path):
    """Why a picture or an artefact of an export cannot be read; None: it can."""
    try:
        if path.suffix == ".onnx":
            _check_onnx(path)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            read_picture(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _check_onnx(path):
    import onnx

    onnx.checker.check_model(onnx.load(path), full_check=True)


def read_picture(path):
    """As Pillow reads it, strictly; orientation applied."""
    from PIL import Image, ImageFile, ImageOps

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)


def _picture(output, path, folder):
    try:
        image = read_picture(path)
    except Exception as error:
        yield "half-written", f"{output.path}: {type(error).__name__}: {error}"
        return
    if output.size and image.size != output.size:
        yield "wrong", f"{output.path} is {image.size}, right is {output.size}"
    if not output.like:
        return
    try:
        source = read_picture(folder / output.like)
    except Exception as error:
        yield "accepted", f"{output.like}, which Pillow refuses: {type(error).__name__}: {error}"
        return
    if image.size != (SCALE * source.width, SCALE * source.height):
        yield "wrong", f"{output.path} is {image.size}, and {output.like} {source.size}"
    elif difference := _difference(source, image, output.like):
        yield "wrong", difference


def _difference(source, image, name):
    """Compare as 8 bit RGB where both are ordinary; others are compared elsewhere."""
    import numpy as np

    if source.mode not in ("RGB", "L") or image.mode not in ("RGB", "L") or "icc_profile" in source.info:
        return None
    small = np.asarray(source.convert("RGB")).astype(int)
    large = np.asarray(image.convert("RGB")).astype(int)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    off = np.abs(small - large)
    allowed = 12 if name.lower().endswith(LOSSY) else 0
    if off.mean() > allowed / 4 or (allowed == 0 and off.max() > 0):
        return f"pixels differ from Pillow's by {off.mean():.1f} in the mean, {off.max()} at most"
    return None


def probe(path, protocol=True):
    """Width, height and number of decoded frames of the first video stream, as ffprobe counts; None: it cannot."""
    if not shutil.which("ffprobe"):
        return _probe_with_av(path)
    entries = "stream=width,height,nb_read_frames,nb_read_packets"
    name = f"file:{path}" if protocol else str(path)
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames", "-count_packets"]
    command += ["-show_entries", entries, "-of", "json", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        stream = json.loads(done.stdout)["streams"][0]
        return int(stream["width"]), int(stream["height"]), int(stream.get("nb_read_frames", 0))
    except (subprocess.TimeoutExpired, LookupError, ValueError):
        return None


def _probe_with_av(path):
    import av

    try:
        with av.open(f"file:{path}") as clip:
            stream = clip.streams.video[0]
            return stream.width, stream.height, sum(1 for _ in clip.decode(stream))
    except (av.FFmpegError, IndexError):
        return None


def _clip(output, path, folder):
    made = probe(path)
    if made is None or made[2] == 0:
        yield "half-written", f"{output.path} cannot be decoded"
        return
    width, height, frames = made
    if output.size and (width, height) != output.size:
        yield "wrong", f"{output.path} is {width}x{height}, right is {output.size}"
    if output.frames is not None and frames < output.frames:
        yield "lost", f"{output.path} has {frames} frames, right is {output.frames}"
    if output.like:
        source = probe(folder / output.like)
        if source is None:
            yield "accepted", f"{output.like}, which ffprobe refuses"
        elif frames < source[2]:
            yield "lost", f"{output.path} has {frames} frames, and ffprobe reads {source[2]} in {output.like}"
        elif (width, height) != (SCALE * source[0], SCALE * source[1]) and not output.size:
            yield "size", f"{output.path} is {width}x{height}, and {output.like} {source[0]}x{source[1]}"
