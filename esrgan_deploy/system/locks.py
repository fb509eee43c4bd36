"""One process at a time builds an engine; the lock of a process that was killed is gone with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from esrgan_deploy.errors import OutputError


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock for the block; another process, or thread, waits in here for it.

    The file is removed at the end. Whoever dies leaves it behind, unlocked, and harms nobody.

    Args:
        path: the lock file; its folder exists.
        waiting: called once, if somebody else holds the lock.

    Raises:
        OutputError: the file cannot be made.
    """
    file = _acquire(path, wait=False)
    if file is None:
        waiting()
        file = _acquire(path, wait=True)
        assert file is not None
    with _released(file, path):
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock for the block, or yield False at once if somebody else holds it.

    Raises:
        OutputError: the file cannot be made.
    """
    file = _acquire(path, wait=False)
    if file is None:
        yield False
        return
    with _released(file, path):
        yield True


def _acquire(path: Path, *, wait: bool) -> int | None:
    """The locked file, or None if somebody else holds it and `wait` is False."""
    import fcntl

    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"{path.parent}: cannot be written: {error.strerror}; choose another folder") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            return file  # a network file system without locks: better unlocked than not at all
        except BaseException:
            os.close(file)
            raise
        if _is_still_there(file, path):
            return file
        os.close(file)  # its holder removed it while we waited; whoever comes now locks another file


def _is_still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _released(file: int, path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is given up: whoever opened the file meanwhile notices
        os.close(file)
