"""The files in a folder of engines: how they are named, and which of them belong to us.

    NAME = STEM.OPTIONS.LIBRARY.GPU.KEY         compact.u8_1x360x640.trt10.13.3.9.sm90.0123456789ab
    NAME.engine, NAME.engine.json               a plan and its sidecar
    NAME.ends.safetensors                       the weights at alpha 0 and 1, where it can be refitted
    .NAME.RANDOM.part.SUFFIX                    one of these while it is written
    .KEY.lock                                   held by whoever builds the engine
    LIBRARY.GPU.MACHINE.timing                  TensorRT's timing cache: how fast its kernels are on that machine

Other files are never touched. KEY and MACHINE are the first twelve hexadecimal digits of a SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from esrgan_deploy.engine.machine import Machine
from esrgan_deploy.engine.options import EngineOptions
from esrgan_deploy.engine.store.sidecar import EngineFile, open_engine
from esrgan_deploy.errors import ModelError, OutputError
from esrgan_deploy.system.ownership import check_only_owner_writes

_KEY_DIGITS = 12
_STEM_BYTES = 100
"""Limits the length of file names, of which most file systems allow 255 bytes."""
_NAME = r".+\.u(?:8|16)_[\dx-]+(?:_refit)?\.(?:trt|rtx)[\w.]*\.(?:sm\d+|any)\.(?P<key>[0-9a-f]{12})"
_FINISHED = re.compile(rf"{_NAME}\.(?:engine|engine\.json|ends\.safetensors)", re.DOTALL)
_PARTIAL = re.compile(rf"\.{_NAME}(?:\.engine|\.ends)?\.[0-9a-f]{{8}}\.part\.(?:engine|json|safetensors)", re.DOTALL)
_LOCK = re.compile(r"\.(?P<key>[0-9a-f]{12})\.lock")
_TIMING = re.compile(r"\.?(?:trt|rtx)[\w.]*\.(?:sm\d+|any)\.[0-9a-f]{12}(?:\.[0-9a-f]{8}\.part)?\.timing")


@dataclass(frozen=True)
class Entry:
    """One engine of a folder."""

    path: Path
    engine: EngineFile | None
    """None: it cannot be used."""
    fault: str
    """Why it cannot be used; empty: it can."""


class EngineFolder:
    """The engines' files in one folder, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folder where it is missing.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)  # nobody else writes, whatever the umask is
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made: {error.strerror}; choose another folder") from error
        check_only_owner_writes(self.path)

    def check_room(self, model: Path) -> None:
        """Make sure, before the long build, that the disk has room for the plan, which is about as large as the model.

        Raises:
            OutputError: less is free than the ONNX file takes.
        """
        needed, free = model.stat().st_size, shutil.disk_usage(self.path).free
        if free < needed:
            raise OutputError(
                f"{self.path}: has {free / 2**20:.1f} MiB free, and the engine of {model.name} takes about "
                f"{needed / 2**20:.1f}; make room with esrgan-engine --prune, or choose another folder"
            )

    def engine_path(self, model: Path, options: EngineOptions, machine: Machine, key: str) -> Path:
        """Where the engine of an ONNX file belongs."""
        stem = model.stem.encode(errors="ignore")[:_STEM_BYTES].decode(errors="ignore")
        return self.path / f"{stem}.{options.label()}.{machine.label}.{key[:_KEY_DIGITS]}.engine"

    def lock_path(self, key: str) -> Path:
        """What is locked while the engine of a key is built or removed."""
        return self.path / f".{key[:_KEY_DIGITS]}.lock"

    def timing_path(self, machine: Machine) -> Path:
        """Where the timing cache of a machine belongs."""
        digest = hashlib.sha256(json.dumps(asdict(machine), sort_keys=True).encode()).hexdigest()
        return self.path / f"{machine.label}.{digest[:_KEY_DIGITS]}.timing"

    def engine_paths(self, key: str = "") -> list[Path]:
        """Files that are named as engines, or as the engine of one key, sorted by name.

        Raises:
            OutputError: the folder cannot be read.
        """
        finished = ((path, _FINISHED.fullmatch(path.name)) for path in self._files() if path.suffix == ".engine")
        return [path for path, match in finished if match and (not key or key.startswith(match["key"]))]

    def engines(self, key: str = "") -> list[Entry]:
        """All engines, or those of one key, sorted by name, each compared with its sidecar.

        Raises:
            OutputError: the folder cannot be read.
        """
        return [_examine(path) for path in self.engine_paths(key)]

    def by_key(self) -> dict[str, list[Path]]:
        """All files of engines, finished or not, by the first digits of their keys.

        The list is empty for a key of which only the lock is left.

        Raises:
            OutputError: the folder cannot be read.
        """
        found: dict[str, list[Path]] = {}
        for path in self._files():
            if match := _LOCK.fullmatch(path.name):
                found.setdefault(match["key"], [])
            elif match := _FINISHED.fullmatch(path.name) or _PARTIAL.fullmatch(path.name):
                found.setdefault(match["key"], []).append(path)
        return found

    def of_key(self, key: str) -> list[Path]:
        """All files of the engine of a key, finished or not.

        Raises:
            OutputError: the folder cannot be read.
        """
        return self.by_key().get(key[:_KEY_DIGITS], [])

    def timings(self) -> list[Path]:
        """The timing caches of all machines, unfinished ones of killed processes too.

        Raises:
            OutputError: the folder cannot be read.
        """
        return [path for path in self._files() if _TIMING.fullmatch(path.name)]

    def _files(self) -> list[Path]:
        check_only_owner_writes(self.path)
        try:
            return sorted(Path(file.path) for file in os.scandir(self.path) if file.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror}; choose another folder") from error


def remove_file(path: Path) -> int:
    """Remove a file, if it is still there, and return how many bytes it had.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        nbytes = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed: {error.strerror}; remove it by hand") from error
    return nbytes


def _examine(path: Path) -> Entry:
    try:
        engine = open_engine(path)
        engine.verify()
    except ModelError as error:
        return Entry(path, None, str(error).rpartition("; ")[0] or str(error))  # without the remedy
    return Entry(path, engine, "")
