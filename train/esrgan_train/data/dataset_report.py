"""The report of a data set: what its folders hold, and what is wrong with them. `str()` of it is what is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esrgan_train.data.image_check import CheckedImage

Severity = Literal["error", "warning"]
Role = Literal["train", "validation"]

SHOWN = 10
"""At most this many warnings of one kind are printed; errors are all printed."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the data."""

    severity: Severity
    """error: training would stop, or its scores would be wrong. warning: it works, but probably not as intended."""
    kind: str
    """Problems of one kind are counted together: unreadable, smaller than the patch, duplicate ..."""
    path: Path
    what: str
    """What is wrong, and the remedy, in one line without the path."""

    def __str__(self) -> str:
        return f"{self.severity:12}{self.path}: {self.what}"


@dataclass(frozen=True)
class FolderSummary:
    """What one folder holds."""

    folder: Path
    role: Role
    pictures: tuple[CheckedImage, ...]
    """The pictures that can be read, in the order of their names."""
    found: int
    """The number of all pictures, also of those that cannot be read."""

    def __str__(self) -> str:
        start = f"{self.role:12}{self.folder}: {self.found} picture{'s' * (self.found != 1)}"
        if not self.pictures:
            return start
        ordered = sorted(self.pictures, key=lambda picture: picture.pixels)
        low, middle, high = (f"{p.width}x{p.height}" for p in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        modes = Counter(picture.header.mode for picture in ordered)
        rotated = sum(picture.header.rotated for picture in ordered)
        return ", ".join(
            [
                start,
                f"{sum(picture.pixels for picture in ordered) / 1e6:.1f} Mpx",
                f"from {low} to {high} (median {middle})",
                "modes " + " ".join(f"{mode} {count}" for mode, count in sorted(modes.items())),
                *([f"{rotated} stored rotated, made upright"] if rotated else []),
            ]
        )


@dataclass(frozen=True)
class DatasetReport:
    """Everything that was found."""

    folders: tuple[FolderSummary, ...]
    problems: tuple[Problem, ...]
    """Errors first; otherwise in the order of files."""
    cache_bytes: int
    """Size on the disk of the decoded pictures and their LR, and memory that holds all of them."""
    decoding_bytes: int
    """Memory needed while the cache is made."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems of severity error."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems of severity warning."""
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
        yield f"{counted(len(self.errors), 'error')}, {counted(len(self.warnings), 'warning')}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def counted(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count} {noun}{'s' * (count != 1)}"
