"""The check of a data set (`esrgan-train doctor`): decode every picture before the first step and say what is wrong.

Some faults would stop training hours later, others would go unnoticed and make its scores wrong.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import MediaError, OptionError
from esrgan_deploy.images import SUFFIXES
from esrgan_train.data import lr_check
from esrgan_train.data.cache import BYTES_PER_SAMPLE
from esrgan_train.data.dataset_report import DatasetReport, FolderSummary, Problem, Role, counted
from esrgan_train.data.image_check import SOFT_PSNR, CheckedImage, check_image, duplicates
from esrgan_train.data.pictures import find_partner, list_files, list_pictures, read_header, read_rgb8

ProgressCount = Callable[[int, int], None]
"""Called with the number of pictures done and of all pictures."""

_CONVERTIBLE = (
    *(".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".ppm", ".pgm", ".tga", ".exr"),
    *(".dng", ".nef", ".cr2"),
)
"""Pictures in formats that training does not read."""


def check_dataset(
    folders: Sequence[StrPath],
    *,
    validation: Sequence[StrPath] = (),
    lr: StrPath | None = None,
    scale: int = 4,
    patch: int = 0,
    progress: ProgressCount = lambda done, total: None,
) -> DatasetReport:
    """Decode every picture once, in as many threads as there are cores, and say what is wrong.

    Args:
        folders: folders with HR pictures to train on, in any depth.
        validation: folders with HR pictures to validate on; a picture that is also trained on is an error.
        lr: folder with the LR pictures; `folders` must then be one folder.
        scale: HR pixels per LR pixel.
        patch: the smallest width and height of a training picture in HR pixels: the recipe's patch times its `shrink`.
        progress: see `ProgressCount`.

    Raises:
        OptionError: `lr` is given for several folders.
    """
    train_folders = [as_path(folder) for folder in folders]
    all_folders = [*train_folders, *map(as_path, validation)]
    lr = as_path(lr) if lr is not None else None
    if lr is not None and len(train_folders) != 1:
        raise OptionError(f"{lr}: is the LR of one folder, and {len(train_folders)} are given; examine them one by one")
    problems: list[Problem] = []
    listed = [_list(folder, problems) for folder in all_folders]
    partners = _find_partners(listed[0], train_folders[0], lr, scale, problems) if lr is not None else {}
    checked = _check_files([file for files in listed for file in files], partners, scale, progress)
    summaries = []
    for number, (folder, files) in enumerate(zip(all_folders, listed, strict=True)):
        role: Role = "train" if number < len(train_folders) else "validation"
        readable = tuple(picture for file in files if (picture := checked[file].picture) is not None)
        summaries.append(FolderSummary(folder, role, readable, len(files)))
    trained = [picture for summary in summaries[: len(train_folders)] for picture in summary.pictures]
    validated = [picture for summary in summaries[len(train_folders) :] for picture in summary.pictures]
    problems += [problem for each in checked.values() for problem in each.problems]
    problems += _about_pictures(trained, max(patch, scale))
    problems += _about_duplicates(trained, validated)
    problems.sort(key=lambda problem: problem.severity)
    return DatasetReport(tuple(summaries), tuple(problems), *_bytes(trained + validated, scale))


@dataclass(frozen=True)
class _Checked:
    """One file: the picture, if it can be read, and what is wrong with it."""

    path: Path
    picture: CheckedImage | None
    problems: tuple[Problem, ...]


def _check_files(
    files: Sequence[Path], partners: Mapping[Path, Path], scale: int, progress: ProgressCount
) -> dict[Path, _Checked]:
    checked: dict[Path, _Checked] = {}
    # Each thread silences warnings while it reads a header, and restores the filters in any order. So they are saved
    # here and restored when all threads are done.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for each in pool.map(lambda file: _check_file(file, partners.get(file), scale), files):
            checked[each.path] = each
            progress(len(checked), len(files))
    return checked


def _check_file(file: Path, lr_file: Path | None, scale: int) -> _Checked:
    try:
        hr = read_rgb8(file)
    except MediaError as error:
        return _Checked(file, None, (_from_error("unreadable", file, error),))
    picture = check_image(file, read_header(file), hr)
    if lr_file is None:
        return _Checked(file, picture, ())
    try:
        lr = read_rgb8(lr_file)
    except MediaError as error:
        return _Checked(file, picture, (_from_error("unreadable", lr_file, error),))
    if what := lr_check.mismatch(hr, lr, scale):
        remedy = "make it again, or leave lr out and it is made"
        return _Checked(file, picture, (Problem("error", "pair does not match", lr_file, f"{what}; {remedy}"),))
    if what := lr_check.explain(hr, lr, scale):
        remedy = "leave lr out to train on MATLAB's bicubic, or keep it if this is what the network is to undo"
        return _Checked(
            file, picture, (Problem("warning", "LR is not MATLAB's bicubic", lr_file, f"{what}; {remedy}"),)
        )
    return _Checked(file, picture, ())


def _list(folder: Path, problems: list[Problem]) -> list[Path]:
    """The pictures in `folder`; other files there are added to `problems`."""
    try:
        pictures = list_pictures(folder)
    except MediaError as error:
        problems.append(_from_error("empty", folder, error))
        return []
    others: list[str] = []
    for file in list_files(folder):
        if file.suffix.lower() in _CONVERTIBLE:
            what = f"is ignored; convert it to PNG to train on it (known: {' '.join(SUFFIXES)})"
            problems.append(Problem("warning", "pictures of unknown formats", file, what))
        elif file.suffix.lower() not in SUFFIXES:
            others.append(file.relative_to(folder).as_posix())
    if others:
        names = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        what = f"{counted(len(others), 'file')} ignored, no pictures: {names}; remove what does not belong there"
        problems.append(Problem("warning", "other files", folder, what))
    return pictures


def _find_partners(
    pictures: Sequence[Path], folder: Path, lr: Path, scale: int, problems: list[Problem]
) -> dict[Path, Path]:
    """The LR file of each picture. Pictures without LR, and LR without a picture, are added to `problems`."""
    if not lr.is_dir():
        problems.append(Problem("error", "no LR", lr, "is no folder; name the one that holds the LR pictures"))
        return {}
    partners = {}
    for file in pictures:
        try:
            partners[file] = find_partner(file, folder, lr, scale)
        except MediaError:
            what = f"has no LR picture in {lr}; add it under the same name, or leave lr out and it is made"
            problems.append(Problem("error", "no LR", file, what))
    claimed = set(partners.values())
    for file in list_files(lr):
        if file.suffix.lower() in SUFFIXES and file not in claimed:
            what = f"belongs to no picture in {folder}; remove it, or add its HR picture"
            problems.append(Problem("warning", "LR without HR", file, what))
    return partners


def _about_pictures(trained: Sequence[CheckedImage], smallest: int) -> Iterator[Problem]:
    for picture in trained:
        size = f"{picture.width}x{picture.height}"
        if min(picture.width, picture.height) < smallest:
            what = f"is {size}, smaller than the patch of {smallest}; remove it or make data.patch smaller"
            yield Problem("error", "smaller than the patch", picture.path, what)
        elif picture.detail_psnr > SOFT_PSNR:
            what = (
                f"is {size}, but its centre has no detail at that size ({picture.detail_psnr:.0f} dB against itself "
                "halved); set shrink: 2, or leave it out"
            )
            yield Problem("warning", "blurred", picture.path, what)


def _about_duplicates(trained: Sequence[CheckedImage], validated: Sequence[CheckedImage]) -> Iterator[Problem]:
    pictures = [*trained, *validated]
    for later, earlier, exact in duplicates(pictures):
        what = f"{'has the same pixels as' if exact else 'shows the same as'} {pictures[earlier].path}"
        if earlier < len(trained) <= later:
            what += ", which is trained on, so that scores would be too good; remove one of them"
            yield Problem("error", "validated and trained on", pictures[later].path, what)
        else:
            yield Problem("warning", "duplicate", pictures[later].path, f"{what}; remove one of them")


def _bytes(pictures: Sequence[CheckedImage], scale: int) -> tuple[int, int]:
    """The size of the cache, and the memory that is needed while it is made."""
    hr = sum(picture.pixels * 3 for picture in pictures)
    threads = os.cpu_count() or 1
    largest = sorted((picture.pixels * 3 for picture in pictures), reverse=True)[:threads]
    return hr + hr // scale**2, sum(largest) * BYTES_PER_SAMPLE


def _from_error(kind: str, path: Path, error: MediaError) -> Problem:
    return Problem("error", kind, path, str(error).removeprefix(f"{path}: "))
