"""The finished segments of a run, kept on the disk, so that a run that died can be resumed.

Beside the target lies a folder `TARGET.parts`: one file for each finished segment, and `journal.jsonl`. Its first line
says what the run computes; each other line is a `SegmentRecord`, added when the file of the segment is on the disk. So
even after a power cut a segment that is listed is complete, and one that is not listed is upscaled again. A third file,
`lock`, is held by the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import sync_folder
from esrgan_deploy.system.locks import locked_if_free
from esrgan_deploy.video.output.segment_file import SegmentRecord, packets_path

CHECKPOINT_FORMAT = 1
_JOURNAL = "journal.jsonl"
_LOCK = "lock"
"""A file of its own: on Windows nobody else could read the journal while it is locked."""


class Checkpoint:
    """The folder of one run; made by `open_checkpoint`, which holds its lock."""

    def __init__(self, folder: Path, file: BinaryIO, records: dict[int, SegmentRecord]) -> None:
        self.folder = folder
        self.records = records
        """Finished segments by index."""
        self.resumed = self.frames
        """Frames that were finished when the checkpoint was opened."""
        self._file = file

    @property
    def frames(self) -> int:
        """Frames of all finished segments."""
        return sum(record.frames for record in self.records.values())

    def path(self, index: int) -> Path:
        """The file that holds the packets of a finished segment."""
        return packets_path(self.folder, index)

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[IO[bytes]]:
        """A file for the packets of a segment. It gets its name when it is on the disk, and is removed after an error.

        Raises:
            OutputError: it cannot be written.
        """
        partial = self.folder / f".{index:06}.part"
        try:
            file = partial.open("wb")
            try:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                finally:
                    with contextlib.suppress(OSError):  # a full disk has no room for the rest of the buffer either
                        file.close()
                partial.replace(self.path(index))
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be written: {error.strerror}; make room, then --resume goes on"
            ) from error

    def add(self, record: SegmentRecord) -> None:
        """List a segment whose file is complete.

        Raises:
            OutputError: `journal.jsonl` cannot be written.
        """
        sync_folder(self.folder)  # so that the name of the segment's file is on the disk before it is listed
        try:
            _append(self._file, _line(record.to_json()))
        except OSError as error:
            raise OutputError(f"{self.folder / _JOURNAL}: cannot be written: {error.strerror}") from error
        self.records[record.index] = record

    def remove(self) -> None:
        """Delete the files: the target is finished, or there is nothing to keep. The folder goes with the lock."""
        self._file.close()
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                with contextlib.suppress(OSError):
                    path.unlink()


def parts_of(target: StrPath) -> Path:
    """The folder that keeps the finished segments of a target until it is finished."""
    target = as_path(target)
    return target.with_name(f"{target.name}.parts")


def recorded_identity(target: Path) -> Mapping[str, Any] | None:
    """`VideoJob.identity` of an interrupted run that left finished segments of `target`; None: there are none."""
    try:
        lines = _complete_lines(parts_of(target) / _JOURNAL)
    except OSError:
        return None
    identity = json.loads(lines[0]) if len(lines) > 1 else None
    return identity if isinstance(identity, dict) else None


@contextlib.contextmanager
def open_checkpoint(target: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Checkpoint]:
    """Begin the checkpoint of a run, or resume the one that is there. A folder without finished segments is not kept.

    Args:
        target: the file that the run will make.
        identity: see `VideoJob.identity`.
        resume: go on with finished segments if there are any; False: refuse to begin if there are any.

    Raises:
        OutputError: there are finished segments of another run, or of this one without `resume`; another process is
            writing the target; the folder cannot be written.
    """
    folder = parts_of(target)
    identity = json.loads(json.dumps({"format": CHECKPOINT_FORMAT, **identity}))  # as it will be read back
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_kept(folder, error) from error
    try:
        with locked_if_free(folder / _LOCK) as free:
            if not free:
                raise OutputError(f"{target}: another process is writing it; wait for that one or name another file")
            with _opened(folder) as file:
                checkpoint = None
                try:
                    checkpoint = Checkpoint(folder, file, _read(folder, file, target, identity, resume=resume))
                    yield checkpoint
                finally:
                    if not (checkpoint.records if checkpoint else any(folder.glob("*.packets"))):
                        (checkpoint or Checkpoint(folder, file, {})).remove()
    finally:
        with contextlib.suppress(OSError):  # there are segments, or another process uses it
            folder.rmdir()


def _opened(folder: Path) -> BinaryIO:
    """`journal.jsonl`, to append lines to it."""
    try:
        return (folder / _JOURNAL).open("ab", buffering=0)
    except OSError as error:
        raise _not_kept(folder, error) from error


def _not_kept(folder: Path, error: OSError) -> OutputError:
    why = f"finished segments cannot be kept there: {error.strerror}"
    return OutputError(f"{folder}: {why}; choose another place for the output")


def _read(
    folder: Path, file: BinaryIO, target: Path, identity: Mapping[str, Any], *, resume: bool
) -> dict[int, SegmentRecord]:
    """The segments that are listed and unharmed; all other files are removed.

    `journal.jsonl` is never replaced, only cut and added to, so that there is no moment without it.
    """
    lines = _complete_lines(folder / _JOURNAL)
    records: dict[int, SegmentRecord] = {}
    if len(lines) > 1:
        _check_same_run(folder, target, lines, identity, resume=resume)
        listed = [SegmentRecord(**json.loads(line)) for line in lines[1:]]
        records = {record.index: record for record in listed if _is_unharmed(folder, record)}
        file.truncate(sum(map(len, lines)))  # a power cut may leave half a line
    else:
        file.truncate(0)
        _append(file, _line(identity))
        sync_folder(folder)
        sync_folder(folder.parent)
    kept = {folder / _JOURNAL, folder / _LOCK, *(packets_path(folder, index) for index in records)}
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()
    return records


def _complete_lines(path: Path) -> list[bytes]:
    """The lines of `journal.jsonl` up to the first one that is incomplete."""
    lines = []
    with path.open("rb") as file:
        for line in file:
            try:
                json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            lines.append(line)
    return lines


def _check_same_run(
    folder: Path, target: Path, lines: list[bytes], identity: Mapping[str, Any], *, resume: bool
) -> None:
    before = json.loads(lines[0])
    other = [name for name, value in identity.items() if before.get(name) != value]
    if other:
        name = other[0]
        raise OutputError(
            f"{target}: {folder.name} holds {len(lines) - 1} finished segments of a run with another {name} "
            f"({before.get(name)}, now {identity.get(name)}); use the same as before, name another output, "
            "or delete that folder"
        )
    if not resume:
        raise OutputError(
            f"{target}: {folder.name} holds {len(lines) - 1} finished segments of this run, which was interrupted; "
            "go on with --resume, or delete that folder to start over"
        )


def _is_unharmed(folder: Path, record: SegmentRecord) -> bool:
    path = packets_path(folder, record.index)
    if not path.exists() or path.stat().st_size != record.bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == record.sha256


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _append(file: BinaryIO, data: bytes) -> None:
    """Put all of `data` on the disk."""
    while data:  # a disk that is nearly full takes a part of it, and fails the next time
        data = data[file.write(data) :]
    os.fsync(file.fileno())
