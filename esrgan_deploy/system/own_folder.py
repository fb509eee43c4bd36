"""A folder that this program made, in which it may read, write and remove its own files, and nobody else's.

A file in it, `MARKER`, says who made it. A folder of that name that lacks the file, a link, and one that others could
have written to, are refused before anything in them is touched. Where the system can do that, the folder is held open
and every name is looked up in it: whoever exchanges the folder for a link afterwards changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal

from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.ownership import strangers

if TYPE_CHECKING:
    from typing_extensions import Self

MARKER = ".esrgan-deploy"
_MADE_BY = "esrgan-deploy"
_MARKER_BYTES = 4096
_REMEDY = "name another output, or move it away"


class OwnFolder:
    """The files of a folder that `open_folder` or `make_folder` found to be ours. Names hold no separator."""

    def __init__(self, path: Path) -> None:
        """Open the folder, whoever made it."""
        self.path = path
        self.handle: int | None = None
        """None: the system looks up whole paths only."""
        if sys.platform != "win32" and _has_handles():
            self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Its files are used no more."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def is_in_place(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return self.handle is None or os.path.samestat(os.fstat(self.handle), self.path.lstat())
        except OSError:
            return False

    def names(self) -> list[str]:
        """Of everything in it, sorted."""
        return sorted(os.listdir(self.path if self.handle is None else self.handle))  # noqa: PTH208

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none.

        Raises:
            OutputError: it is no file, but a link or a folder, for instance.
        """
        try:
            status = os.stat(self._place(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "no file"
            raise OutputError(f"{self.path / name}: is {kind}, which this program did not make; {_REMEDY}")
        return status.st_size

    def open(self, name: str, mode: Literal["rb", "wb", "ab"], *, buffering: int = -1) -> IO[bytes]:
        """Open a file as the function `open` does, without following a link.

        Raises:
            OutputError: it is no file.
            OSError: it cannot be opened.
        """
        self.size(name)
        return open(self._place(name), mode, buffering, encoding=None, opener=self._opener)

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, in the place of what has that name."""
        if self.handle is None:
            (self.path / name).replace(self.path / new)
        else:
            os.rename(name, new, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as far as they are there and can be removed."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(self._place(name), dir_fd=self.handle)

    def sync(self) -> None:
        """Put the names in it on the disk, where the system can do that."""
        if self.handle is not None:
            with contextlib.suppress(OSError):
                os.fsync(self.handle)

    def mark(self) -> None:
        """Write the file that says who made the folder, if it is not there yet; half of it is removed again.

        Raises:
            OSError: the disk is full.
        """
        if not self.is_marked():
            content = {"made_by": _MADE_BY, "folder": self.path.name, "about": "removed when it is not needed"}
            try:
                with self.open(MARKER, "wb", buffering=0) as file:
                    if file.write(line := json.dumps(content).encode() + b"\n") != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
            except OSError:
                self.remove([MARKER])
                raise

    def is_marked(self) -> bool:
        """Whether `mark` was done."""
        try:
            with self.open(MARKER, "rb") as file:
                content = json.loads(file.read(_MARKER_BYTES))
        except (OSError, ValueError, RecursionError, OutputError):
            return False
        return isinstance(content, dict) and content.get("made_by") == _MADE_BY

    def _place(self, name: str) -> str:
        return str(self.path / name) if self.handle is None else name

    def _opener(self, name: str, flags: int) -> int:
        extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags | extra, 0o600, dir_fd=self.handle)


def make_folder(path: Path, harmless: Collection[str] = ()) -> OwnFolder:
    """Make a folder for this user alone, or open one that an earlier run made. It is not marked yet, see `mark`.

    Args:
        path: its own parent exists.
        harmless: names of files that a run which was killed at once may leave before the folder is marked.

    Raises:
        OutputError: something else has that name; nothing was touched.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = open_folder(path, harmless)
    if folder is None:
        raise FileNotFoundError(2, "was removed while it was opened", str(path))
    return folder


def open_folder(path: Path, harmless: Collection[str] = ()) -> OwnFolder | None:
    """Open a folder that `make_folder` made; None: there is none.

    Raises:
        OutputError: something else has that name; nothing was touched.
        OSError: it cannot be read.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or _is_junction(path):
        raise OutputError(f"{path}: is a link, where a folder of this program belongs; {_REMEDY}")
    if not path.is_dir():
        raise OutputError(f"{path}: is a file, where a folder of this program belongs; {_REMEDY}")
    folder = OwnFolder(path)
    try:
        if fault := strangers(path, handle=folder.handle):
            raise OutputError(f"{path}: {fault}, so what is in it cannot be trusted; {_REMEDY}")
        _check_made_by_us(folder, harmless)
    except BaseException:
        folder.close()
        raise
    return folder


def _check_made_by_us(folder: OwnFolder, harmless: Collection[str]) -> None:
    def is_other(name: str) -> bool:
        return name != MARKER and not (name in harmless and not folder.size(name))

    others: list[str] = []
    for _ in range(2):  # another process may mark its new folder between the two looks
        if folder.is_marked():
            return
        others = [
            name for name in folder.names() if name != MARKER and not (name in harmless and not folder.size(name))
        ]
        if not others:
            return
    raise OutputError(f"{folder.path}: was not made by this program, it holds {others[0]}; {_REMEDY}")


def _has_handles() -> bool:
    """Whether the system looks names up in a folder that is open."""
    functions: tuple[Callable[..., object], ...] = (os.open, os.stat, os.unlink, os.rename)
    return os.supports_dir_fd.issuperset(functions) and os.listdir in os.supports_fd


def _is_junction(path: Path) -> bool:
    """Whether it is a link of Windows' other kind, which Python knows from 3.12 on."""
    return bool(getattr(os.path, "isjunction", lambda _: False)(path)) if sys.platform == "win32" else False
