"""Write a file completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.paths import check_name, no_temporary

_OPEN_FILES = Path("/proc/self/fd")
_STEM_BYTES = 200
"""Of a name, that its temporary name keeps: so the longest one still fits when the rest is added."""

_SUFFIX_BYTES = 40
"""A longer one names no format, and is left out of the temporary name."""

_partials: set[Path] = set()


class UnwritableError(OutputError):
    """The disk is full or gone; `what` is the message without its remedy."""

    def __init__(self, target: Path, error: OSError) -> None:
        self.what = f"{target}: cannot be written: {error.strerror or error}"
        super().__init__(f"{self.what}; choose another place")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` when the block succeeds.

    The temporary name keeps the suffix, since encoders choose a format by it. The file is fsynced before the rename,
    so that after a power cut the final name holds either the old or the whole new content. If the block raises
    anything, KeyboardInterrupt included, the temporary file is removed and `target` stays as it was.

    Raises:
        OutputError: `target` is a folder, a device or no name for a file here, or its folder is missing.
        UnwritableError: its folder is not writable, or the disk is full.
    """
    check_no_other(target)
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    stem = target.stem.encode(errors="ignore")[:_STEM_BYTES].decode(errors="ignore")
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _SUFFIX_BYTES else ""
    partial = target.with_name(f".{stem}.{secrets.token_hex(4)}.part{suffix}")
    _partials.add(partial)
    try:
        partial.touch(exist_ok=False)
        yield partial
        with partial.open("rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        # What the block does to other files, or to a pipe that progress is printed to, is not ours to explain.
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(partial), partial):
            raise
        raise UnwritableError(target, error) from error
    finally:
        partial.unlink(missing_ok=True)
        _partials.discard(partial)


def remove_partials() -> None:
    """Remove what `replacing` is at work on, for a process that is about to end without leaving its blocks."""
    for partial in tuple(_partials):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can do that; Windows cannot, and need not be asked."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def same_file(a: Path, b: Path) -> bool:
    """True if both paths exist and name the same file, also through links."""
    return a.exists() and b.exists() and a.samefile(b)


def check_no_other(path: Path) -> None:
    """Refuse what cannot become a file, or is something else already: a rename would put a file in its place.

    Raises:
        OutputError: no name for a file here, a folder, a device, a pipe.
    """
    check_name(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device or a pipe; name a file")


def check_writable(path: Path) -> None:
    """Refuse, before minutes of measuring, a file that could not be written afterwards.

    Raises:
        OutputError: `path` is a folder or a device, or its folder is missing or not writable.
    """
    check_no_other(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} does not exist or is not writable; name another")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, completely or not at all.

    Raises:
        OutputError: `path` cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder among the temporary ones, which is removed at the end of the block.

    Raises:
        OutputError: it cannot be made, or what the block writes into it does not fit.
    """
    import tempfile

    try:
        made = tempfile.TemporaryDirectory(prefix="esrgan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise no_temporary(error) from error
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.filename is None or str(error.filename).startswith(name):
                raise no_temporary(error) from error
            raise


class ScratchFile:
    """A file that is removed when it is closed, and by the death of the process as well.

    Where the system has paths for open files (Linux), it has no other name; elsewhere it lies in a folder of its own,
    which a process that is killed leaves among the temporary ones.

    Raises:
        OutputError: the disk is full.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        import tempfile  # which is slow to import

        self._open = contextlib.ExitStack()
        try:
            file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            self.path = _OPEN_FILES / str(file.fileno())
            if not self.path.exists():
                folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="esrgan-"))
                self.path = Path(folder) / "content"
            self.path.write_bytes(content)
        except OSError as error:
            self.close()
            raise no_temporary(error) from error

    def close(self) -> None:
        """Remove it."""
        self._open.close()
