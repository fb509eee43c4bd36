"""One process at a time builds an engine or writes a clip; the lock of a process that was killed is gone with it."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.errors import OutputError
from esrgan_deploy.watchdog import waiting_outside

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems that have no locks answer: some network and user-space ones."""
_LOG = logging.getLogger(__name__)


def load_locks() -> None:
    """Load what locks need. For whoever takes one on the way out of a block, after Ctrl-C, too.

    An import that was interrupted may fail when it is tried again: asyncio's does, which filelock loads.
    """
    import filelock  # noqa: F401


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock for the block; another process, or thread, waits in here for it.

    The file is removed at the end. Whoever dies leaves it behind, unlocked, and harms nobody. On a file system without
    locks the block runs without one, and a warning is logged once: two processes may then do the same work.

    Args:
        path: the lock file; its folder exists.
        waiting: called once, if somebody else holds the lock.

    Raises:
        OutputError: the file cannot be made.
    """
    lock = _lock(path)
    with _released(lock):
        if not _acquired(lock, wait=False):
            waiting()
            with waiting_outside("the lock"):
                _acquired(lock, wait=True)
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock for the block, or yield False at once if somebody else holds it. See `locked`.

    Raises:
        OutputError: the file cannot be made.
    """
    lock = _lock(path)
    with _released(lock):
        yield _acquired(lock, wait=False)


def _lock(path: Path) -> BaseFileLock:
    from filelock import FileLock

    if path.is_symlink():  # filelock follows none either, but says so in other words
        raise OutputError(f"{path}: is a link, where a lock belongs; remove it, or choose another folder")
    # Soft locks, which filelock would fall back to, outlive whoever dies.
    return FileLock(path, fallback_to_soft=False)


def _acquired(lock: BaseFileLock, *, wait: bool) -> bool:
    """False: somebody else holds it and `wait` is False. True also without a lock, where there are none."""
    from filelock import Timeout

    folder = Path(lock.lock_file).parent
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error
        Path(lock.lock_file).unlink(missing_ok=True)  # it locks nothing
        _warn(folder)
    return True


@functools.cache
def _warn(folder: Path) -> None:
    _LOG.warning("%s: its file system has no locks; run one process at a time there", folder)


@contextlib.contextmanager
def _released(lock: BaseFileLock) -> Iterator[None]:
    """The lock is acquired in the block: Ctrl-C may be raised as soon as it is held."""
    from filelock import UnixFileLock

    try:
        yield
    finally:
        if lock.is_locked:
            if isinstance(lock, UnixFileLock):  # others remove the file themselves
                # Before the lock is given up: whoever has opened the file meanwhile notices, and makes another one.
                with contextlib.suppress(OSError):
                    Path(lock.lock_file).unlink()
            lock.release()
