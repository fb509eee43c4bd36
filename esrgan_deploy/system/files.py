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


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` when the block succeeds.

    The temporary name keeps the suffix, since encoders choose a format by it. The file is fsynced before the rename,
    so that after a power cut the final name holds either the old or the whole new content. If the block raises
    anything, KeyboardInterrupt included, the temporary file is removed and `target` stays as it was.

    Raises:
        OutputError: `target` is a folder, its folder is missing or not writable, or the disk is full.
    """
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    partial = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part{target.suffix}")
    try:
        partial.touch(exist_ok=False)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        # What the block does to other files, or to a pipe that progress is printed to, is not ours to explain.
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(partial), partial):
            raise
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def same_file(a: Path, b: Path) -> bool:
    """True if both paths exist and name the same file, also through links."""
    return a.exists() and b.exists() and a.samefile(b)


def check_writable(path: Path) -> None:
    """Refuse, before minutes of measuring, a file that could not be written afterwards.

    Raises:
        OutputError: `path` is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} does not exist or is not writable; name another")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, completely or not at all.

    Raises:
        OutputError: `path` cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
