"""Folders for the engines of ONNX Runtime's TensorRT provider, one for each engine, always complete.

The provider has a cache of its own, but it finds an engine only by names in the graph: a model with other weights, or
another driver or GPU of the same generation, gets the old engine. It also loads damaged files. So every engine gets a
folder that is named after everything it depends on. The folder is filled under a temporary name, and its files are
compared with their check sums before the provider may use it.

    ROOT/{machine}/{network}/       *.engine and *.timing, as the provider names them, and sums.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy.cuda.gpu import DeviceFacts
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.libraries import library_name, load
from esrgan_deploy.system.locks import locked
from esrgan_deploy.system.ownership import check_only_owner_writes

SUMS = "sums.json"
ENGINE, TIMING = "*.engine", "*.timing"


@dataclass(frozen=True)
class EngineFolder:
    """The folder for the engine of one network, in one shape, on one machine."""

    root: Path
    machine: str
    network: str

    @property
    def path(self) -> Path:
        """The folder; it may not exist yet."""
        return self.root / self.machine / self.network

    @contextlib.contextmanager
    def opened(self, waiting: Callable[[], None]) -> Iterator[Path]:
        """The folder to give to the provider while it makes a session, which builds or loads the engine.

        What the provider wrote is kept only if the block ends without an error. One process at a time is let in; the
        next one then finds the engine.

        Args:
            waiting: called once, if another process holds the folder.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            for place in (self.root, self.path.parent):
                place.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path.parent}: cannot be made: {error.strerror}; choose another cache") from error
        for place in (self.root, self.path.parent):
            check_only_owner_writes(place)
        with locked(self.path.with_suffix(".lock"), waiting):
            if is_whole(self.path):
                yield self.path
                return
            with self._unfinished() as folder:
                yield folder

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """A temporary folder that is renamed to the final one at the end of the block."""
        for left in self.path.parent.glob(f"{self.network}.part-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a killed process, since this one holds the lock
        folder = Path(tempfile.mkdtemp(prefix=f"{self.network}.part-", dir=self.path.parent))
        try:
            for timing in self._newest_timings():
                shutil.copy(timing, folder)
            yield folder
            try:
                (folder / SUMS).write_text(json.dumps(_sums(folder), indent=1), encoding="utf-8", newline="\n")
                shutil.rmtree(self.path, ignore_errors=True)
                folder.rename(self.path)
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written: {error.strerror}; choose another cache") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _newest_timings(self) -> list[Path]:
        """The timing cache of the engine built last for this machine, which saves timing the same kernels again."""
        others = sorted(self.path.parent.glob(f"*/{SUMS}"), key=lambda sums: sums.stat().st_mtime, reverse=True)
        return next((list(sums.parent.glob(TIMING)) for sums in others if is_whole(sums.parent)), [])


def machine_key(facts: DeviceFacts, onnxruntime_version: str) -> str:
    """A hash over everything outside the network that an engine depends on, TensorRT's version too."""
    parts = [facts.name, facts.compute_capability, facts.driver, onnxruntime_version, _tensorrt_version()]
    return "sm{}{}-".format(*facts.compute_capability) + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def network_key(graph: bytes) -> str:
    """A hash over a graph: its weights, shape and frame type."""
    return hashlib.sha256(graph).hexdigest()[:24]


def is_whole(folder: Path) -> bool:
    """Whether the folder holds an engine, and all of its files agree with their check sums."""
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return any(folder.glob(ENGINE)) and sums == _sums(folder)
    except (OSError, ValueError, RecursionError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but `SUMS`."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _tensorrt_version() -> int:
    """101303 for 10.13.3, from the library itself; 0 if it is not installed."""
    library = load(library_name("nvinfer", 10))
    return int(library.getInferLibVersion()) if library else 0
