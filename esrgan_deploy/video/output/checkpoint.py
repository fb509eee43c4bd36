"""The finished segments of a run, kept on the disk, so that a run that died can be resumed.

Beside the target lies a folder `TARGET.parts`: one file for each finished segment, and `journal.jsonl`. Its first line
says what the run computes; each other line is a `SegmentRecord`, added when the file of the segment is on the disk. So
even after a power cut a segment that is listed is complete, and one that is not listed is upscaled again. A third file,
`lock`, is held by the run; a fourth says that this program made the folder, see `system.own_folder`. It may be moved
with all it holds, to become the one of another target.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from esrgan_deploy.arguments import StrPath, as_path, described
from esrgan_deploy.budget import opened
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import sync_folder
from esrgan_deploy.system.locks import load_locks, locked_if_free
from esrgan_deploy.system.own_folder import MARKER, OwnFolder, make_folder, open_folder
from esrgan_deploy.system.paths import check_name
from esrgan_deploy.video.output.journal import JOURNAL, Lines, read_journal, sealed
from esrgan_deploy.video.output.segment_file import (
    SegmentFile,
    SegmentRecord,
    all_segments,
    finished_segments,
    packets_name,
    unfinished_name,
)

CHECKPOINT_FORMAT = 2
_LOG = logging.getLogger(__name__)
_ENDING = ".parts"
_LOCK = "lock"
"""A file of its own: on Windows nobody else could read the journal while it is locked."""
_BEFORE = b'{"format":1,'
"""How journals of format 1 begin, whose lines are not sealed."""


class Checkpoint:
    """The folder of one run; made by `open_checkpoint`, which holds its lock."""

    def __init__(self, folder: OwnFolder, file: IO[bytes], chain: str, records: dict[int, SegmentRecord]) -> None:
        self.folder = folder
        self.records = records
        """Finished segments by index."""
        self.resumed = self.frames
        """Frames that were finished when the checkpoint was opened."""
        self._file = file
        self._chain = chain

    @property
    def frames(self) -> int:
        """Frames of all finished segments."""
        return sum(record.frames for record in self.records.values())

    def segment(self, index: int) -> SegmentFile:
        """A finished segment."""
        name = packets_name(index)
        return SegmentFile(self.folder.path / name, partial(self.folder.open, name, "rb"), self.records[index])

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[IO[bytes]]:
        """A file for the packets of a segment. It gets its name when it is on the disk, and is removed after an error.

        Raises:
            OutputError: it cannot be written.
        """
        unfinished = unfinished_name(index)
        try:
            file = self.folder.open(unfinished, "wb")
            try:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                finally:
                    with contextlib.suppress(OSError):  # a full disk has no room for the rest of the buffer either
                        file.close()
                self.folder.rename(unfinished, packets_name(index))
            finally:
                self.folder.remove([unfinished])
        except OSError as error:
            raise self._not_written(self.folder.path, error) from error

    def add(self, record: SegmentRecord) -> None:
        """List a segment whose file is complete.

        Raises:
            OutputError: `journal.jsonl` cannot be written.
        """
        self.folder.sync()  # so that the name of the segment's file is on the disk before it is listed
        line, chain = sealed(record.to_json(), self._chain)
        try:
            _append(self._file, line)
        except OSError as error:
            raise self._not_written(self.folder.path / JOURNAL, error) from error
        self._chain = chain
        self.records[record.index] = record

    def remove(self) -> None:
        """Delete our files: the target is finished, or there is nothing to keep. The folder goes with the lock."""
        self._file.close()
        _remove_all(self.folder)

    def _not_written(self, path: Path, error: OSError) -> OutputError:
        return OutputError(f"{path}: cannot be written: {error.strerror}; make room, then --resume goes on")


def parts_of(target: StrPath) -> Path:
    """The folder that keeps the finished segments of a target until it is finished."""
    target = as_path(target)
    return target.with_name(f"{target.name}{_ENDING}")


def check_parts(target: Path) -> None:
    """Refuse, before anything is computed, a target whose finished segments could not be kept.

    Raises:
        OutputError: its name is too long for that, or something that is not ours has the name of the folder.
    """
    if folder := _open_parts(target):
        folder.close()


def recorded_identity(target: Path) -> Mapping[str, Any] | None:
    """`VideoJob.identity` of an interrupted run that left finished segments of `target`; None: there are none.

    Raises:
        OutputError: see `check_parts`.
    """
    folder = _open_parts(target)
    if folder is None:
        return None
    with folder:
        lines = read_journal(folder)
        return lines.values(0) if len(lines.texts) > 1 else None


@contextlib.contextmanager
def open_checkpoint(target: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Checkpoint]:
    """Begin the checkpoint of a run, or resume the one that is there. A folder without finished segments is not kept.

    Args:
        target: the file that the run will make.
        identity: see `VideoJob.identity`.
        resume: go on with finished segments if there are any; False: refuse to begin if there are any.

    Raises:
        OutputError: there are finished segments of another run, or of this one without `resume`; another process is
            writing the target; the folder cannot be written, or is not ours.
    """
    path = parts_of(target)
    identity = json.loads(json.dumps({"format": CHECKPOINT_FORMAT, **identity}))  # as it will be read back
    check_parts(target)
    load_locks()
    try:  # from before the folder is made: Ctrl-C is raised between any two steps of its opening
        try:
            folder = make_folder(path, {_LOCK})
        except OSError as error:
            raise _not_kept(path, error) from error
        with folder, locked_if_free(path / _LOCK) as free:
            if not free:
                raise OutputError(f"{target}: another process is writing it; wait for that one or name another file")
            with _opened(folder) as file:
                yield _read(folder, file, target, identity, resume=resume)
    finally:
        _remove_unused(path)


def _remove_unused(path: Path) -> None:
    """Remove a folder that lists no finished segment, unless another process uses it or something else lies in it."""
    with contextlib.suppress(OSError, OutputError):  # it is gone, or was exchanged; the reason of the end is raised
        folder = open_folder(path, {_LOCK})
        if folder is None:
            return
        with folder, locked_if_free(path / _LOCK) as free:
            lines = read_journal(folder) if free else None
            if lines and not lines.fault and len(lines.texts) < 2:  # the first one lists no segment
                _remove_all(folder)
        path.rmdir()


def _open_parts(target: Path) -> OwnFolder | None:
    path = parts_of(target)
    check_name(target, ending=_ENDING)
    try:
        return open_folder(path, {_LOCK})
    except OSError as error:
        raise _not_kept(path, error) from error
    except OutputError:
        if not path.is_symlink() and _is_of_format_1(path / JOURNAL):
            raise OutputError(
                f"{path}: holds segments of an earlier version of esrgan-deploy; finish the clip with that version, "
                "or delete that folder to start over"
            ) from None
        raise


def _is_of_format_1(journal: Path) -> bool:
    try:
        with opened(journal, OutputError) as file:
            return file.read(len(_BEFORE)) == _BEFORE
    except OutputError:
        return False


def _opened(folder: OwnFolder) -> IO[bytes]:
    """`journal.jsonl`, to append lines to it, in a folder that is marked as ours."""
    if not folder.is_in_place():
        raise OutputError(f"{folder.path}: was exchanged while it was opened; name another output")
    try:
        folder.mark()
        return folder.open(JOURNAL, "ab", buffering=0)
    except OSError as error:
        raise _not_kept(folder.path, error) from error


def _not_kept(folder: Path, error: OSError) -> OutputError:
    why = f"finished segments cannot be kept there: {error.strerror}"
    return OutputError(f"{folder}: {why}; choose another place for the output")


def _read(folder: OwnFolder, file: IO[bytes], target: Path, identity: Mapping[str, Any], *, resume: bool) -> Checkpoint:
    """The segments that are listed and unharmed; other segments are removed.

    `journal.jsonl` is never replaced, only cut and added to, so that there is no moment without it.
    """
    lines = read_journal(folder)
    records: dict[int, SegmentRecord] = {}
    if len(lines.texts) > 1 or (lines.texts and lines.fault):
        _check_same_run(folder.path, target, lines, lines.values(0), identity, resume=resume)
        listed = [lines.record(place) for place in range(1, len(lines.texts))]
        records = {record.index: record for record in listed if _is_unharmed(folder, record)}
        if lines.fault:
            _LOG.warning(
                "%s: line %d is not what was written; the segments from there on are computed again",
                *(lines.path, lines.fault),
            )
        chain = lines.chain
        file.truncate(lines.length)  # a power cut may leave half a line
    else:
        if lines.fault and finished_segments(folder):
            raise OutputError(
                f"{lines.path}: line {lines.fault} is not what was written, so that none of the finished "
                "segments can be used; delete that folder to start over"
            )
        file.truncate(0)
        line, chain = sealed(identity, "")
        _append(file, line)
        folder.sync()
        sync_folder(folder.path.parent)
    kept = {packets_name(index) for index in records}
    folder.remove(name for name in all_segments(folder) if name not in kept)
    return Checkpoint(folder, file, chain, records)


def _check_same_run(
    folder: Path,
    target: Path,
    lines: Lines,
    before: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    resume: bool,
) -> None:
    other = [name for name, value in identity.items() if before.get(name) != value]
    if other:
        name = other[0]
        raise OutputError(
            f"{target}: {folder.name} holds {len(lines.texts) - 1} finished segments of a run with another {name} "
            f"({described(before.get(name))}, now {described(identity.get(name))}); use the same as before, name "
            "another output, or delete that folder"
        )
    if not resume:
        raise OutputError(
            f"{target}: {folder.name} holds {len(lines.texts) - 1} finished segments of this run, which was "
            "interrupted; go on with --resume, or delete that folder to start over"
        )


def _is_unharmed(folder: OwnFolder, record: SegmentRecord) -> bool:
    name = packets_name(record.index)
    if folder.size(name) != record.bytes:
        return False
    digest = hashlib.sha256()
    with folder.open(name, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == record.sha256


def _remove_all(folder: OwnFolder) -> None:
    """Remove our files but the lock; what else is there is named, and stays."""
    folder.remove([*all_segments(folder), JOURNAL, MARKER])
    if left := [name for name in folder.names() if name != _LOCK]:
        _LOG.warning("%s: stays, since it holds %s, which is not of this program", folder.path, left[0])


def _append(file: IO[bytes], data: bytes) -> None:
    """Put all of `data` on the disk."""
    while data:  # a disk that is nearly full takes a part of it, and fails the next time
        data = data[file.write(data) :]
    os.fsync(file.fileno())
