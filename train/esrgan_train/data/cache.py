"""The cache of decoded pictures: one memory-mapped file of raw RGB bytes, so that training decodes nothing."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.budget import check_memory, opened
from esrgan_deploy.cli.progress import Progress
from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.locks import locked
from esrgan_deploy.system.paths import real_path, writable_cache
from esrgan_export.bicubic import downscale, mod_crop
from esrgan_export.image_types import Uint8Image
from esrgan_train.data.pictures import find_partner, list_pictures, read_rgb8

BYTES_PER_SAMPLE = 6
"""Memory at the peak, while MATLAB's bicubic is computed in float64."""
CACHE_FORMAT = 1  # part of the key; raised when the layout of the file changes
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One picture in both resolutions, memory-mapped."""

    name: str
    hr: Uint8Image
    """uint8 RGB (H, W, 3)."""
    lr: Uint8Image
    """uint8 RGB (H / scale, W / scale, 3)."""


def open_pairs(
    folder: StrPath,
    scale: int,
    *,
    lr_folder: StrPath | None = None,
    shrink: int = 1,
    cache: StrPath | None = None,
) -> list[Pair]:
    """All pictures below `folder` with their LR pictures: decoded at the first call, mapped from the cache afterwards.

    The key of the cache is made of the files' names, sizes and times and of every option, so that changed pictures are
    decoded again.

    Args:
        folder: HR pictures, in any depth; cut at the lower right to multiples of `scale`.
        scale: HR pixels per LR pixel.
        lr_folder: LR pictures under the same names; None: LR is made by MATLAB's bicubic.
        shrink: make the HR pictures this many times smaller first (MATLAB's bicubic), which sharpens soft photographs.
        cache: folder for decoded pictures; None: the user's cache folder, or a temporary one for this process if that
            cannot be written.

    Raises:
        MediaError: no pictures, one that cannot be read, an LR that does not fit its HR, or a damaged cache.
        OutputError: the cache cannot be written.
    """
    folder, lr_folder = as_path(folder), as_path(lr_folder) if lr_folder else None
    files = list_pictures(folder)
    lr_files = [find_partner(file, folder, lr_folder, scale) if lr_folder else None for file in files]
    key = _key(folder, [*files, *filter(None, lr_files)], scale, shrink)
    target = (as_path(cache) if cache else writable_cache()) / f"{key}.pairs"
    if not target.exists():
        _make_folder(target.parent)
        with locked(
            target.with_suffix(".lock"), lambda: _LOG.warning("%s: another process decodes it; waiting", folder)
        ):
            if not target.exists():
                _build(target, folder, files, lr_files, functools.partial(_load_pair, scale=scale, shrink=shrink))
    return _map(target)


def _make_folder(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{cache}: cannot be made: {error.strerror}; set data.cache") from error


def _key(folder: Path, files: Sequence[Path], scale: int, shrink: int) -> str:
    about = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:  # a link to nothing or to itself
            raise MediaError(f"{file}: cannot be read: {error.strerror}; remove it") from error
        about.append((os.path.relpath(file, folder), status.st_size, status.st_mtime_ns))
    described = json.dumps([CACHE_FORMAT, str(real_path(folder)), scale, shrink, about])
    return hashlib.sha256(described.encode()).hexdigest()[:20]


def _build(
    target: Path,
    folder: Path,
    files: Sequence[Path],
    lr_files: Sequence[Path | None],
    load: Callable[[Path, Path | None], tuple[Uint8Image, Uint8Image]],
) -> None:
    """Decode all pairs into one atomic file.

    Layout: position of the header (8 bytes, little endian) | HR and LR of each pair, raw | header, JSON.
    """
    entries = []
    pairs = in_threads(load, zip(files, lr_files, strict=True))
    with replacing(target) as partial, partial.open("wb") as out, Progress("picture", len(files)) as progress:
        out.write(bytes(8))
        for file, (hr, lr) in zip(files, pairs, strict=True):
            entries.append({"name": os.path.relpath(file, folder), "at": out.tell(), "hr": hr.shape, "lr": lr.shape})
            out.write(hr.tobytes())
            out.write(lr.tobytes())
            progress(len(entries))
        start = out.tell()
        out.write(json.dumps(entries).encode())
        out.seek(0)
        out.write(start.to_bytes(8, "little"))


def in_threads(
    load: Callable[[Path, Path | None], tuple[Uint8Image, Uint8Image]], files: Iterable[tuple[Path, Path | None]]
) -> Iterator[tuple[Uint8Image, Uint8Image]]:
    """What `load` returns for each pair of files, in order. Threads load a few pairs ahead, and no more than that."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[Uint8Image, Uint8Image]]] = deque()
        for hr, lr in files:
            waiting.append(pool.submit(load, hr, lr))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load_pair(file: Path, lr_file: Path | None, *, scale: int, shrink: int) -> tuple[Uint8Image, Uint8Image]:
    hr = read_rgb8(file)
    check_memory(file, f"to make LR of a picture of {hr.shape[1]}x{hr.shape[0]}", hr.size * BYTES_PER_SAMPLE)
    if shrink > 1:
        hr = downscale(mod_crop(hr, shrink), shrink)
    hr = np.ascontiguousarray(mod_crop(hr, scale))
    if not hr.size:
        raise MediaError(f"{file}: is smaller than {scale * shrink} pixels; remove it")
    if lr_file is None:
        return hr, downscale(hr, scale)
    lr = read_rgb8(lr_file)
    if lr.shape[:2] != (hr.shape[0] // scale, hr.shape[1] // scale):
        raise MediaError(
            f"{lr_file}: is {lr.shape[1]}x{lr.shape[0]}, but {file.name} is {hr.shape[1]}x{hr.shape[0]} and the scale "
            f"is {scale}; make it again, or leave lr out and it is made by MATLAB's bicubic"
        )
    return hr, lr


def _map(target: Path) -> list[Pair]:
    remedy = "remove it, and the pictures are decoded again"
    try:
        with opened(target, MediaError, remedy) as file:
            pixels = np.asarray(np.memmap(file, np.uint8, mode="r"))  # an array is cheaper to slice than a memmap
        header = int.from_bytes(pixels[:8].tobytes(), "little")
        entries = json.loads(pixels[header:].tobytes())
        return [_pair(pixels[:header], entry["at"], entry["hr"], entry["lr"], entry["name"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # it was written whole: something has changed it
        raise MediaError(f"{target}: is damaged; {remedy}") from error


def _pair(pixels: Uint8Image, at: int, hr: Sequence[int], lr: Sequence[int], name: str) -> Pair:
    for height, width, channels in (hr, lr):
        if min(height, width) < 1 or channels != 3:
            raise ValueError("no picture")
    middle = at + math.prod(hr)
    end = middle + math.prod(lr)
    if at < 8 or end > len(pixels):
        raise ValueError("a picture outside the file")
    return Pair(str(name), pixels[at:middle].reshape(hr), pixels[middle:end].reshape(lr))
