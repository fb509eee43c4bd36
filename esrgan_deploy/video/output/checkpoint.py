"""The finished segments of a run, kept on the disk, so that a run that died can be resumed.

Beside the target lies a folder `TARGET.parts`: one file for each finished segment, and `journal.jsonl`. Its first line
says what the run computes; each other line is a `SegmentRecord`, added when the file of the segment is on the disk. So
even after a power cut a segment that is listed is complete, and one that is not listed is upscaled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from esrgan_deploy.errors import OutputError
from esrgan_deploy.video.output.segment_file import SegmentRecord, packets_path

CHECKPOINT_FORMAT = 1
_JOURNAL = "journal.jsonl"


class Checkpoint:
    """The folder of one run; made by `open_checkpoint`, which holds its lock."""

    def __init__(self, folder: Path, file: int, records: dict[int, SegmentRecord]) -> None:
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
                yield file
                file.flush()
                os.fsync(file.fileno())
                partial.replace(self.path(index))
            finally:
                with contextlib.suppress(OSError):  # a full disk has no room for the rest of the buffer either
                    file.close()
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
        _sync_folder(self.folder)  # so that the name of the segment's file is on the disk before it is listed
        try:
            _append(self._file, _line(record.to_json()))
        except OSError as error:
            raise OutputError(f"{self.folder / _JOURNAL}: cannot be written: {error.strerror}") from error
        self.records[record.index] = record

    def remove(self) -> None:
        """Delete the folder: the target is finished, or there is nothing to keep."""
        shutil.rmtree(self.folder, ignore_errors=True)


def parts_of(target: Path) -> Path:
    """The folder that keeps the finished segments of a target until it is finished."""
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
        file = os.open(folder / _JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise OutputError(
            f"{folder}: finished segments cannot be kept there: {error.strerror}; choose another place for the output"
        ) from error
    checkpoint = None
    try:
        _lock(file, target)
        records = _read(folder, file, target, identity, resume=resume)
        checkpoint = Checkpoint(folder, file, records)
        yield checkpoint
    finally:
        if checkpoint is not None and not checkpoint.records:
            checkpoint.remove()
        os.close(file)


def _lock(file: int, target: Path) -> None:
    """Keep a second process from the target; the lock of a process that was killed is gone with it."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{target}: another process is writing it; wait for that one or name another file") from None
    except OSError:
        pass  # a network file system without locks: better unlocked than not at all


def _read(
    folder: Path, file: int, target: Path, identity: Mapping[str, Any], *, resume: bool
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
        os.ftruncate(file, sum(map(len, lines)))  # a power cut may leave half a line
    else:
        os.ftruncate(file, 0)
        _append(file, _line(identity))
        _sync_folder(folder)
        _sync_folder(folder.parent)
    kept = {folder / _JOURNAL, *(packets_path(folder, index) for index in records)}
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
            "go on with --resume, or delete that folder to begin anew"
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


def _append(file: int, data: bytes) -> None:
    """Put all of `data` on the disk."""
    while data:  # a disk that is nearly full takes a part of it, and fails the next time
        data = data[os.write(file, data) :]
    os.fsync(file)


def _sync_folder(folder: Path) -> None:
    """Put the names of the files of a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
