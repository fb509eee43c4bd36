"""Where ONNX Runtime's TensorRT provider keeps its engines: a folder for each, which is whole or is not there.

The provider has a cache of its own, but it recognises an engine by the names in the graph only: a model with other
weights, under another driver or on another GPU of the same generation, gets the old engine. It writes its files in
place, and loads whatever it finds under their names. So every engine gets a folder named after all that it depends on.
It is filled under another name, and what is in it is compared with its check sums before the provider sees it.

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

SUMS = "sums.json"
ENGINE, TIMING = "*.engine", "*.timing"


@dataclass(frozen=True)
class EngineFolder:
    """Where the engine of one network in one shape on one machine is kept."""

    root: Path
    machine: str
    network: str

    @property
    def path(self) -> Path:
        """The folder; it may not exist yet."""
        return self.root / self.machine / self.network

    @contextlib.contextmanager
    def opened(self, waiting: Callable[[], None]) -> Iterator[Path]:
        """The folder to point the provider to while it makes a session, which builds or loads the engine.

        If the block ends well, what it wrote is kept; otherwise nothing of it is. One process at a time: another one
        waits, and then finds the engine.

        Args:
            waiting: called once, if another process holds the folder.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path.parent}: cannot be made: {error.strerror}; choose another cache") from error
        with locked(self.path.with_suffix(".lock"), waiting):
            if is_whole(self.path):
                yield self.path
                return
            with self._unfinished() as folder:
                yield folder

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """A folder beside the final one, which becomes it."""
        for left in self.path.parent.glob(f"{self.network}.part-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a killed process: we hold its lock
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
        """The timing cache of the engine built last for this machine: what was timed for it need not be again."""
        others = sorted(self.path.parent.glob(f"*/{SUMS}"), key=lambda sums: sums.stat().st_mtime, reverse=True)
        return next((list(sums.parent.glob(TIMING)) for sums in others if is_whole(sums.parent)), [])


def machine_key(facts: DeviceFacts, onnxruntime_version: str) -> str:
    """Names everything outside the network that an engine depends on; TensorRT's own version included."""
    parts = [facts.name, facts.compute_capability, facts.driver, onnxruntime_version, _tensorrt_version()]
    return "sm{}{}-".format(*facts.compute_capability) + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def network_key(graph: bytes) -> str:
    """Names a graph, its weights, and with them its shape and frame type."""
    return hashlib.sha256(graph).hexdigest()[:24]


def is_whole(folder: Path) -> bool:
    """Whether the folder holds at least one engine, and every file in it is what was written."""
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return any(folder.glob(ENGINE)) and sums == _sums(folder)
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the check sums themselves."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _tensorrt_version() -> int:
    """101303 for 10.13.3, asked of the library; 0 where it is not there."""
    library = load(library_name("nvinfer", 10))
    return int(library.getInferLibVersion()) if library else 0
