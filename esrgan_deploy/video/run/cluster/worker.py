"""What runs in a worker process of a cluster: segments, one after the other, on an Upscaler that stays loaded.

A worker may be killed at any moment. So what it keeps on its disk has no name there, and is gone with the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy.errors import EsrganError, MachineError, OutputError
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video.output.segment_file import SegmentRecord
from esrgan_deploy.video.run.cluster.recipe import UpscalerSpec
from esrgan_deploy.video.run.frames import SegmentUpscaler
from esrgan_deploy.video.run.job import VideoJob, versions
from esrgan_deploy.video.source.segments import Segment

if TYPE_CHECKING:
    import numpy.typing as npt

    from esrgan_deploy.upscaler import Upscaler

REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class Stored:
    """Something in Ray's object store that a worker fetches when it needs it, once."""

    reference: Any  # ray.ObjectRef; Ray would fetch one that is an argument by itself, for every call

    def fetch(self) -> Any:  # noqa: ANN401  # whatever was stored
        """Wait for it."""
        import ray

        return ray.get(self.reference)


@dataclass(frozen=True)
class Tools:
    """How a worker makes its Upscaler."""

    recipe: UpscalerSpec
    model: Stored | None
    """The bytes of the model's file; None: there is none."""


@dataclass(frozen=True)
class Source:
    """A clip, and how a worker knows that it sees the same one at the same path."""

    path: Path
    """Absolute."""
    size: int
    modified_s: float
    content: Stored | None = None
    """The bytes of the file, for workers that do not see it."""

    def visible(self) -> bool:
        """Tell whether the file at this path is the one that is meant."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        # Two seconds are the coarsest clock that file systems keep.
        return found.st_size == self.size and abs(found.st_mtime - self.modified_s) <= 2


@dataclass(frozen=True)
class Finished:
    """A segment."""

    record: SegmentRecord
    packets: npt.NDArray[np.uint8]
    """The content of its file."""
    node: str
    seconds: float
    """From the first frame to the finished file."""
    busy_s: dict[str, float]
    """See `SegmentUpscaler.busy_s`."""
    counts: Counts
    """What the Upscaler did for it."""


@dataclass(frozen=True)
class Unseen:
    """The worker does not see the source, and was not given its content."""

    node: str


@dataclass(frozen=True)
class Failed:
    """An error that another attempt would meet again. Raised in a task, it would come back as one of Ray's."""

    error: EsrganError


class Progress:
    """An actor that knows how many frames of each segment are done. An attempt that begins anew counts anew."""

    def __init__(self) -> None:
        self._frames: dict[int, int] = {}

    def report(self, segment: int, frames: int) -> None:
        """Say that so many frames of a segment are done."""
        self._frames[segment] = frames

    def frames(self) -> dict[int, int]:
        """Frames by segment, finished ones among them."""
        return self._frames


def identify(tools: Stored) -> dict[str, Any] | Failed:
    """A task: what the Upscaler of this worker is; see `Upscaler.identity`."""
    try:
        return _Worker.of(tools).upscaler.identity()
    except EsrganError as error:
        return Failed(_at_node(error))


def output_size(tools: Stored, height: int, width: int) -> tuple[int, int]:
    """A task: see `Upscaler.output_size`."""
    return _Worker.of(tools).upscaler.output_size(height, width)


def upscale_segment(
    tools: Stored,
    job: Stored,
    source: Source,
    segment: Segment,
    progress: Any,  # noqa: ANN401  # Ray's handle of a Progress
) -> Finished | Unseen | Failed:
    """A task: finish one segment.

    Args:
        tools: holds `Tools`.
        job: holds a `VideoJob`.
        source: of the job.
        segment: one of the job's.
        progress: a handle of a `Progress` actor; None: nobody wants to know.
    """
    try:
        worker = _Worker.of(tools)
        worker.take(job)
        path = worker.local(source)
        if path is None:
            return Unseen(_node())
        return worker.finish(path, segment, _reporter(progress, segment.index) if progress else None)
    except EsrganError as error:
        return Failed(_at_node(error))


class _Worker:
    """What a process keeps from one task to the next."""

    _kept: _Worker | None = None

    @classmethod
    def of(cls, tools: Stored) -> _Worker:
        """The one for these tools; that of another run is closed."""
        kept = _Worker._kept
        if kept and kept._tools == tools:
            kept._check_gpus()
            return kept
        if kept:
            _Worker._kept = None
            kept.upscaler.close()
        _Worker._kept = _Worker(tools)
        return _Worker._kept

    def __init__(self, tools: Stored) -> None:
        import ray

        self._tools = tools
        self._gpus = ray.get_gpu_ids()
        self._model: IO[bytes] | None = None
        self._source: tuple[Stored, IO[bytes]] | None = None
        self._job: tuple[Stored, VideoJob] | None = None
        self.upscaler = self._open(tools.fetch())

    def _open(self, tools: Tools) -> Upscaler:
        if tools.model is None:
            return tools.recipe.open()
        self._model = _nameless(tools.model.fetch())
        path = _path_of(self._model)
        try:
            return replace(tools.recipe, model=path).open()
        except EsrganError as error:
            raise type(error)(str(error).replace(str(path), str(tools.recipe.model))) from error

    def _check_gpus(self) -> None:
        """A process cannot leave the GPU that it began with. Where Ray gives it another one, Ray has to try anew."""
        import ray

        if ray.get_gpu_ids() != self._gpus:
            os._exit(1)

    def take(self, job: Stored) -> None:
        """Make this the job of the segments that follow.

        Raises:
            MachineError: this node would not make the same file.
        """
        if self._job and self._job[0] == job:
            return
        fetched: VideoJob = job.fetch()
        self.upscaler.follow(fetched.identity, fetched.source.height, fetched.source.width)
        here = {**self.upscaler.identity(), **versions()}
        for name, value in here.items():
            if fetched.identity[name] != value:
                raise MachineError(
                    f"its {name} is {value}, that of the run {fetched.identity[name]}, so the pieces would not fit; "
                    "install the same packages on all nodes, and give --backend, --precision and --tile"
                )
        self._job = job, fetched

    def local(self, source: Source) -> Path | None:
        """Where this process reads the source; None: nowhere yet."""
        if source.visible():
            return source.path
        if source.content is None:
            return None
        if self._source is None or self._source[0] != source.content:
            self._source = source.content, _nameless(source.content.fetch())
        return _path_of(self._source[1])

    def finish(self, source: Path, segment: Segment, progress: Callable[[int], None] | None) -> Finished:
        """Upscale one segment of the job."""
        assert self._job is not None
        begin = time.perf_counter()
        job = replace(self._job[1], source=replace(self._job[1].source, path=source))
        before = replace(self.upscaler.counts)
        store = _MemoryStore()
        segments = SegmentUpscaler(job, self.upscaler, store, progress=progress)
        segments.run([segment])
        (record,) = store.records
        return Finished(
            record=record,
            packets=np.frombuffer(store.packets.getbuffer(), np.uint8),
            node=_node(),
            seconds=time.perf_counter() - begin,
            busy_s=segments.busy_s,
            counts=self.upscaler.counts.since(before),
        )


class _MemoryStore:
    """Keeps one segment in memory, from where it goes to Ray's object store; see `SegmentStore`."""

    def __init__(self) -> None:
        self.packets = io.BytesIO()
        self.records: list[SegmentRecord] = []

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[IO[bytes]]:
        yield self.packets

    def add(self, record: SegmentRecord) -> None:
        self.records.append(record)


def _nameless(content: npt.NDArray[np.uint8]) -> IO[bytes]:
    """A file of this content without a name, so that it never outlives the process.

    Raises:
        OutputError: the disk is full.
    """
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # it stays open for as long as it is needed
        file.write(content.data)
        file.flush()
    except OSError as error:
        raise OutputError(f"{tempfile.gettempdir()}: cannot be written: {error.strerror}; make room there") from error
    return file


def _path_of(file: IO[bytes]) -> Path:
    return Path(f"/proc/self/fd/{file.fileno()}")


def _reporter(progress: Any, segment: int) -> Callable[[int], None]:  # noqa: ANN401
    """A callback for `SegmentUpscaler` that reports now and then."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S:
            last = now
            progress.report.remote(segment, done)

    return report


def _at_node(error: EsrganError) -> EsrganError:
    """The same error, with the node's name where that matters: not for a bad model or option."""
    return type(error)(f"node {_node()}: {error}") if isinstance(error, MachineError | OutputError) else error


def _node() -> str:
    return socket.gethostname()
