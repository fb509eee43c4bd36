"""The lines of `journal.jsonl`: JSON objects, each sealed with a digest over itself and all lines before it.

A line that was edited, lost or moved breaks the chain there, so that it and what follows is not believed. This finds
what a disk, an editor or a script did. Somebody who wants to deceive can compute the digests anew: from those the
owner and the mode of the folder protect, see `system.ownership`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esrgan_deploy.budget import check_memory
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.own_folder import OwnFolder
from esrgan_deploy.video.output.segment_file import SegmentRecord

JOURNAL = "journal.jsonl"
_SEAL = b',"chain":"'
_END = b'"}\n'
_DIGITS = 64
_SEAL_LENGTH = len(_SEAL) + _DIGITS + len(_END)


@dataclass(frozen=True)
class Lines:
    """The lines of a journal up to the first one that cannot be believed."""

    path: Path
    """Of the journal, as messages name it."""
    texts: tuple[bytes, ...]
    """The JSON of each, without its seal."""
    length: int
    """Bytes of them in the file."""
    chain: str
    """The seal of the last one; empty: there is none."""
    fault: int | None
    """Number of a line, from 1, that is whole and yet not what was written; None: at most the end of one is missing."""

    def values(self, place: int) -> dict[str, Any]:
        """A line as it was given to `sealed`.

        Raises:
            OutputError: it is no JSON object that this program wrote.
        """
        try:
            values = json.loads(self.texts[place])
            if not isinstance(values, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise self._not_ours(place, error) from error
        return values

    def record(self, place: int) -> SegmentRecord:
        """A line behind the first one.

        Raises:
            OutputError: it is no record that this program wrote.
        """
        values = self.values(place)
        try:
            return SegmentRecord.from_json(values)
        except ValueError as error:
            raise self._not_ours(place, error) from error

    def _not_ours(self, place: int, error: Exception) -> OutputError:
        why = " ".join(str(error).split())
        return OutputError(
            f"{self.path}: line {place + 1} was not written by this program ({why}); delete {self.path.parent} to "
            "start over"
        )


def sealed(values: Mapping[str, Any], chain: str) -> tuple[bytes, str]:
    """A line for the journal, and its seal; `chain` is the seal of the line before it, empty for the first one."""
    text = json.dumps(values, separators=(",", ":")).encode()
    seal = _seal(text, chain)
    return text[:-1] + _SEAL + seal.encode() + _END, seal


def read_journal(folder: OwnFolder) -> Lines:
    """The lines of the journal in a folder; none if there is no journal.

    Raises:
        OutputError: it cannot be read.
        MachineError: it does not fit into memory.
    """
    path = folder.path / JOURNAL
    check_memory(path, "its content", folder.size(JOURNAL) or 0)
    try:
        with folder.open(JOURNAL, "rb") as file:
            return _lines(path, file.read())
    except FileNotFoundError:
        return _lines(path, b"")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}; delete {folder.path} to start over") from error


def _lines(path: Path, data: bytes) -> Lines:
    texts: list[bytes] = []
    length, chain = 0, ""
    for line in io.BytesIO(data):
        text, seal = line[:-_SEAL_LENGTH] + b"}", line[-len(_END) - _DIGITS : -len(_END)]
        if line[-_SEAL_LENGTH:] != _SEAL + seal + _END or seal != _seal(text, chain).encode():
            # A power cut may leave half a line at the end, and nothing that the user should be told of.
            return Lines(path, tuple(texts), length, chain, len(texts) + 1 if line.endswith(b"\n") else None)
        texts.append(text)
        length += len(line)
        chain = seal.decode()
    return Lines(path, tuple(texts), length, chain, None)


def _seal(text: bytes, chain: str) -> str:
    return hashlib.sha256(chain.encode() + text).hexdigest()
