"""What a file may claim before anything is allocated for it.

Everything that comes from outside (a picture, a clip, a model, a checkpoint, a recipe, a journal) is opened and
measured here: only regular files, no more bytes than their kind has, and no more memory than there is. What a file says
of its own size is checked against these before anybody believes it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from esrgan_deploy.errors import EsrganError, MachineError

MIB = 1 << 20
TEXT_BYTES = 16 * MIB
"""The most that a file of text may hold: sidecars, recipes, reports, playlists, journals."""
_LEAST_ADDRESS_SPACE_MIB = 1400
"""What Python, OpenCV and a backend map before they do anything; with less, some of them crash instead of failing."""
_UNQUESTIONED = 256 * MIB
"""Needs up to this are not compared with the memory there is, which takes a while to find out."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_limit: int | None = None


def set_memory_limit(limit: int | None) -> None:
    """Let what one file needs be at most `limit` bytes; None, as at the start: what is free when it is asked for."""
    global _limit
    _limit = limit


def memory_limit() -> int:
    """Bytes that one file may need: what was set, or what is free now."""
    from esrgan_deploy.system.memory import free_mib  # loads psutil

    return free_mib() * MIB if _limit is None else _limit


def check_memory(source: object, what: str, needed: int) -> None:
    """Refuse what does not fit into memory, before it is allocated.

    Args:
        source: the file, as messages name it.
        what: what needs the memory, for instance "a picture of 10000x10000".
        needed: bytes.

    Raises:
        MachineError: more than `memory_limit`.
    """
    if needed <= _UNQUESTIONED and _limit is None:
        return
    limit = memory_limit()
    if needed > limit:
        whose = "is free" if _limit is None else "is allowed"
        remedy = "raise --max-memory" if _limit is not None else "close other programs, or see --max-memory"
        raise MachineError(
            f"{source}: {what} needs {_size(needed + MIB - 1)} of memory, and {_size(limit)} {whose}; {remedy}"
        )


def check_address_space() -> None:
    """Refuse to begin where `ulimit -v` leaves too little for the libraries alone.

    Raises:
        MachineError: less than 1.4 GiB.
    """
    from esrgan_deploy.system.memory import address_space_mib

    limit = address_space_mib()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE_MIB:
        raise MachineError(
            f"ulimit -v allows this process {limit} MiB of memory, and its libraries alone need "
            f"{_LEAST_ADDRESS_SPACE_MIB}; run `ulimit -v unlimited`, or start it without this limit"
        )


def check_regular(path: Path, error: type[EsrganError]) -> int:
    """Refuse what is no file with a content and an end: pipes, devices, folders. Links to files are files.

    Returns:
        Its size in bytes.

    Raises:
        EsrganError: of the kind `error`; also if there is no such file.
    """
    try:
        status = path.stat()
    except OSError as cause:
        raise _unreadable(path, error, cause) from cause
    return _checked_size(path, status, error)


@contextmanager
def opened(path: Path, error: type[EsrganError], remedy: str | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading; a pipe is refused without waiting for its writer.

    Args:
        path: the file.
        error: the kind of error for what is wrong with it.
        remedy: what helps, where that is not to name another file.

    Raises:
        EsrganError: of the kind `error`: no regular file, or it cannot be opened or read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            _checked_size(path, os.fstat(handle), error, remedy)
        except EsrganError:
            os.close(handle)
            raise
        with os.fdopen(handle, "rb") as file:
            yield file
    except OSError as cause:
        raise _unreadable(path, error, cause, remedy) from cause


def read_bytes(path: Path, error: type[EsrganError], at_most: int | None = None, remedy: str | None = None) -> bytes:
    """The whole content of a regular file.

    Args:
        path: the file.
        error: the kind of error for what is wrong with it.
        at_most: bytes that a file of its kind may have; None: what fits into memory.
        remedy: what helps, where that is not to name another file.

    Raises:
        EsrganError: of the kind `error`: no regular file, larger than `at_most`, or unreadable.
        MachineError: it does not fit into memory.
    """
    with opened(path, error, remedy) as file:
        size = os.fstat(file.fileno()).st_size
        if at_most is None:
            check_memory(path, "its content", size)
            return file.read(size)  # what is appended meanwhile is not wanted
        data = file.read(at_most + 1)
        if len(data) > at_most:
            raise error(f"{path}: has more than {at_most / MIB:g} MiB, which no file of its kind has")
        return data


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count // MIB} MiB"


def _checked_size(path: Path, status: os.stat_result, error: type[EsrganError], remedy: str | None = None) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}; {remedy or 'name a file'}")
    return status.st_size


def _unreadable(path: Path, error: type[EsrganError], cause: OSError, remedy: str | None = None) -> EsrganError:
    return error(f"{path}: cannot be read: {cause.strerror or cause}{f'; {remedy}' if remedy else ''}")
