"""Look at every picture before the first step: what training would stumble over, or worse, would not notice."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esrgan_deploy.errors import MediaError, OptionError
from esrgan_deploy.images import SUFFIXES
from esrgan_train.data import lr_check
from esrgan_train.data.inspection import SOFT_PSNR, Inspection, duplicates, inspect
from esrgan_train.data.pictures import find_partner, list_files, list_pictures, read_header, read_rgb8

Progress = Callable[[int, int], None]
Severity = Literal["error", "warning"]
Role = Literal["train", "validation"]

SHOWN = 10
"""Warnings of one kind that are printed; errors are all printed."""
_BYTES_PER_SAMPLE = 6  # picture, and MATLAB's bicubic of it in float64, at the peak
_CONVERTIBLE = (
    ".gif",
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".ppm",
    ".pgm",
    ".tga",
    ".exr",
    ".dng",
    ".nef",
    ".cr2",
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the data."""

    severity: Severity
    """error: training would stop, or its figures would lie. warning: it works, but probably not as meant."""
    kind: str
    """What the problems have in common that are counted together: unreadable, small, duplicate ..."""
    path: Path
    what: str
    """One line, without the path: what is wrong, and the remedy."""

    def __str__(self) -> str:
        return f"{self.severity:12}{self.path}: {self.what}"


@dataclass(frozen=True)
class FolderSummary:
    """What one folder holds."""

    folder: Path
    role: Role
    pictures: tuple[Inspection, ...]
    """Those that can be read, in the order of their names."""
    found: int
    """All of them."""

    def __str__(self) -> str:
        start = f"{self.role:12}{self.folder}: {self.found} picture{'s' * (self.found != 1)}"
        if not self.pictures:
            return start
        ordered = sorted(self.pictures, key=lambda picture: picture.pixels)
        low, middle, high = (f"{p.width}x{p.height}" for p in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        modes = Counter(picture.header.mode for picture in ordered)
        turned = sum(picture.header.turned for picture in ordered)
        return ", ".join(
            [
                start,
                f"{sum(picture.pixels for picture in ordered) / 1e6:.1f} Mpx",
                f"from {low} to {high} (median {middle})",
                "modes " + " ".join(f"{mode} {count}" for mode, count in sorted(modes.items())),
                *([f"{turned} stored turned, made upright"] if turned else []),
            ]
        )


@dataclass(frozen=True)
class Diagnosis:
    """All that was found; `str()` is what to print."""

    folders: tuple[FolderSummary, ...]
    problems: tuple[Problem, ...]
    """Errors first; otherwise in the order of files."""
    cache_bytes: int
    """What the decoded pictures and their LR take on disk; as much memory keeps all of them at hand."""
    decoding_bytes: int
    """Memory needed while the cache is made."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Those of severity error."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Those of severity warning."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def lines(self) -> Iterator[str]:
        """The report, line by line."""
        yield from map(str, self.folders)
        yield (
            f"{'cache':12}{self.cache_bytes / 1e6:,.0f} MB on disk, and in memory once all of it was used; "
            f"{self.decoding_bytes / 1e6:,.0f} MB while it is made"
        )
        yield from map(str, self.errors)
        shown: Counter[str] = Counter()
        for problem in self.warnings:
            shown[problem.kind] += 1
            if shown[problem.kind] <= SHOWN:
                yield str(problem)
        for kind, count in shown.items():
            if count > SHOWN:
                yield f"{'warning':12}and {count - SHOWN} more: {kind}"
        yield f"{_counted(len(self.errors), 'error')}, {_counted(len(self.warnings), 'warning')}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def examine(
    folders: Sequence[Path],
    *,
    validation: Sequence[Path] = (),
    lr: Path | None = None,
    scale: int = 4,
    patch: int = 0,
    progress: Progress = lambda done, total: None,
) -> Diagnosis:
    """Decode every picture once, in as many threads as there are cores, and say what is wrong.

    Args:
        folders: HR pictures to train on, in any depth.
        validation: folders of HR pictures to validate on; none of them may be in training.
        lr: LR pictures of the one folder in `folders`.
        scale: HR pixels per LR pixel.
        patch: HR pixels that a training picture must have in both directions: the recipe's patch times its `shrink`.
        progress: called with pictures done and their total.

    Raises:
        OptionError: `lr` is given for several folders.
    """
    if lr is not None and len(folders) != 1:
        raise OptionError(f"{lr}: is the LR of one folder, and {len(folders)} are given; examine them one by one")
    problems: list[Problem] = []
    listed = [_list(folder, problems) for folder in (*folders, *validation)]
    partners = _find_partners(listed[0], folders[0], lr, scale, problems) if lr is not None else {}
    looked = _look_at_all([file for files in listed for file in files], partners, scale, progress)
    summaries = []
    for number, (folder, files) in enumerate(zip((*folders, *validation), listed, strict=True)):
        role: Role = "train" if number < len(folders) else "validation"
        readable = tuple(picture for file in files if (picture := looked[file].picture) is not None)
        summaries.append(FolderSummary(folder, role, readable, len(files)))
    trained = [picture for summary in summaries[: len(folders)] for picture in summary.pictures]
    validated = [picture for summary in summaries[len(folders) :] for picture in summary.pictures]
    problems += [problem for look in looked.values() for problem in look.problems]
    problems += _about_pictures(trained, max(patch, scale))
    problems += _about_duplicates(trained, validated)
    problems.sort(key=lambda problem: problem.severity)
    return Diagnosis(tuple(summaries), tuple(problems), *_bytes(trained + validated, scale))


@dataclass(frozen=True)
class _Look:
    """What one decoding gave."""

    path: Path
    picture: Inspection | None
    problems: tuple[Problem, ...]


def _look_at_all(
    files: Sequence[Path], partners: Mapping[Path, Path], scale: int, progress: Progress
) -> dict[Path, _Look]:
    looked: dict[Path, _Look] = {}
    # Reading headers silences warnings, which threads undo in any order: put the filters back once they are done.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for look in pool.map(lambda file: _look(file, partners.get(file), scale), files):
            looked[look.path] = look
            progress(len(looked), len(files))
    return looked


def _look(file: Path, lr_file: Path | None, scale: int) -> _Look:
    try:
        hr = read_rgb8(file)
    except MediaError as error:
        return _Look(file, None, (_from_error("unreadable", file, error),))
    picture = inspect(file, read_header(file), hr)
    if lr_file is None:
        return _Look(file, picture, ())
    try:
        lr = read_rgb8(lr_file)
    except MediaError as error:
        return _Look(file, picture, (_from_error("unreadable", lr_file, error),))
    if what := lr_check.mismatch(hr, lr, scale):
        remedy = "make it again, or leave lr out and it is made"
        return _Look(file, picture, (Problem("error", "pair does not match", lr_file, f"{what}; {remedy}"),))
    if what := lr_check.explain(hr, lr, scale):
        remedy = "leave lr out to train on MATLAB's bicubic, or keep it if this is what the network is to undo"
        return _Look(file, picture, (Problem("warning", "LR is not MATLAB's bicubic", lr_file, f"{what}; {remedy}"),))
    return _Look(file, picture, ())


def _list(folder: Path, problems: list[Problem]) -> list[Path]:
    """The pictures in `folder`; what else is there becomes problems."""
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
        what = f"{_counted(len(others), 'file')} ignored, no pictures: {names}; remove what does not belong there"
        problems.append(Problem("warning", "other files", folder, what))
    return pictures


def _find_partners(
    pictures: Sequence[Path], folder: Path, lr: Path, scale: int, problems: list[Problem]
) -> dict[Path, Path]:
    """LR file of each picture; those without one, and LR pictures that nothing asks for, become problems."""
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


def _about_pictures(trained: Sequence[Inspection], smallest: int) -> Iterator[Problem]:
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


def _about_duplicates(trained: Sequence[Inspection], validated: Sequence[Inspection]) -> Iterator[Problem]:
    pictures = [*trained, *validated]
    for later, earlier, exact in duplicates(pictures):
        what = f"{'has the same pixels as' if exact else 'shows the same as'} {pictures[earlier].path}"
        if earlier < len(trained) <= later:
            what += ", which is trained on, so that figures would lie; remove one of them"
            yield Problem("error", "validated and trained on", pictures[later].path, what)
        else:
            yield Problem("warning", "duplicate", pictures[later].path, f"{what}; remove one of them")


def _bytes(pictures: Sequence[Inspection], scale: int) -> tuple[int, int]:
    """Size of the cache, and memory while it is made."""
    hr = sum(picture.pixels * 3 for picture in pictures)
    threads = os.cpu_count() or 1
    largest = sorted((picture.pixels * 3 for picture in pictures), reverse=True)[:threads]
    return hr + hr // scale**2, sum(largest) * _BYTES_PER_SAMPLE


def _from_error(kind: str, path: Path, error: MediaError) -> Problem:
    return Problem("error", kind, path, str(error).removeprefix(f"{path}: "))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
