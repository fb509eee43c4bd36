"""What runs in a worker process of a cluster: segments, one after the other, on an Upscaler that stays loaded.

A worker may be killed at any moment. So its temporary files have no name, and are gone with the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from esrgan_deploy.errors import EsrganError, MachineError, OutputError, StallError
from esrgan_deploy.system.files import ScratchFile
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video.output.segment_file import SegmentRecord
from esrgan_deploy.video.run.cluster.upscaler_spec import UpscalerSpec
from esrgan_deploy.video.run.frames import upscale_segments
from esrgan_deploy.video.run.job import VideoJob, versions
from esrgan_deploy.video.source.segments import Segment
from esrgan_deploy.watchdog import Watchdog

if TYPE_CHECKING:
    import numpy.typing as npt

    from esrgan_deploy.upscaler import Upscaler

_LOG = logging.getLogger(__name__)
REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class StoredObject:
    """An object in Ray's object store that a worker fetches when it needs it, once."""

    reference: Any  # ray.ObjectRef; wrapped, since Ray fetches one that is an argument itself for every call

    def fetch(self) -> Any:  # noqa: ANN401  # whatever was stored
        """Wait for it."""
        import ray

        return ray.get(self.reference)


@dataclass(frozen=True)
class WorkerSetup:
    """From what a worker makes its Upscaler."""

    spec: UpscalerSpec
    model: StoredObject | None
    """The bytes of the model's file; None: there is none."""
    stall_s: float = 0.0
    """See `_ended_if_stuck`."""


@dataclass(frozen=True)
class SourceFile:
    """The clip, and how a worker knows whether it sees the same file at the same path."""

    path: Path
    """Absolute."""
    size: int
    modified_s: float
    content: StoredObject | None = None
    """The bytes of the file, for workers that do not see it."""

    def visible(self) -> bool:
        """True if this process finds the same file at the path."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        # Two seconds are the coarsest clock that file systems keep.
        return found.st_size == self.size and abs(found.st_mtime - self.modified_s) <= 2


@dataclass(frozen=True)
class FinishedSegment:
    """The result of a task."""

    record: SegmentRecord
    packets: npt.NDArray[np.uint8]
    """The content of its file."""
    node: str
    seconds: float
    """From the first frame to the finished file."""
    busy_s: dict[str, float]
    """See `upscale_segments`."""
    counts: Counts
    """What the Upscaler did for it."""


@dataclass(frozen=True)
class SourceNotFound:
    """The result of a task whose worker does not see the source, and was not given its content."""

    node: str


@dataclass(frozen=True)
class TaskFailure:
    """The result of a task that would fail again. If the task raised the error, the driver would get one of Ray's."""

    error: EsrganError


class FrameCounter:
    """An actor that knows how many frames of each segment are done. A segment that is repeated counts from 0 again."""

    def __init__(self) -> None:
        self._frames: dict[int, int] = {}

    def report(self, segment: int, frames: int) -> None:
        """Say how many frames of a segment are done."""
        self._frames[segment] = frames

    def frames(self) -> dict[int, int]:
        """Index of each segment, also of finished ones -> frames that are done."""
        return self._frames


def identify(setup: StoredObject) -> dict[str, Any] | TaskFailure:
    """A task: what the Upscaler of this worker is; see `Upscaler.identity`."""
    try:
        return _Worker.of(setup).upscaler.identity()
    except EsrganError as error:
        return TaskFailure(_at_node(error))


def output_size(setup: StoredObject, height: int, width: int) -> tuple[int, int]:
    """A task: see `Upscaler.output_size`."""
    return _Worker.of(setup).upscaler.output_size(height, width)


def upscale_segment(
    setup: StoredObject,
    job: StoredObject,
    source: SourceFile,
    segment: Segment,
    counter: Any,  # noqa: ANN401  # Ray's handle of a FrameCounter
) -> FinishedSegment | SourceNotFound | TaskFailure:
    """A task: finish one segment of a stored `VideoJob` with the Upscaler of a stored `WorkerSetup`.

    Frames are reported to `counter` if it is not None.
    """
    try:
        worker = _Worker.of(setup)
        worker.set_job(job)
        path = worker.readable_path(source)
        if path is None:
            return SourceNotFound(_node())
        return worker.upscale(path, segment, _reporter(counter, segment.index) if counter else None)
    except EsrganError as error:
        return TaskFailure(_at_node(error))


class _Worker:
    """What a process keeps from one task to the next."""

    _kept: _Worker | None = None

    @classmethod
    def of(cls, setup: StoredObject) -> _Worker:
        """The one of this setup; that of another run is closed."""
        kept = _Worker._kept
        if kept and kept._setup == setup:
            kept._check_gpus()
            return kept
        if kept:
            _Worker._kept = None
            kept.upscaler.close()
        _Worker._kept = _Worker(setup)
        return _Worker._kept

    def __init__(self, setup: StoredObject) -> None:
        import ray

        self._setup = setup
        self._gpus = ray.get_gpu_ids()
        self._model: ScratchFile | None = None
        self._source: tuple[StoredObject, ScratchFile] | None = None
        self._job: tuple[StoredObject, VideoJob] | None = None
        fetched: WorkerSetup = setup.fetch()
        self._stall_s = fetched.stall_s
        with _ended_if_stuck(self._stall_s):
            self.upscaler = self._open(fetched)

    def _open(self, setup: WorkerSetup) -> Upscaler:
        if setup.model is None:
            return setup.spec.open()
        self._model = ScratchFile(setup.model.fetch().data)
        path = self._model.path
        try:
            return replace(setup.spec, model=path).open()
        except EsrganError as error:
            raise type(error)(str(error).replace(str(path), str(setup.spec.model))) from error

    def _check_gpus(self) -> None:
        """End the process if Ray gives it another GPU, since CUDA keeps the first one; Ray then repeats the task."""
        import ray

        if ray.get_gpu_ids() != self._gpus:
            os._exit(1)

    def set_job(self, job: StoredObject) -> None:
        """Make this the job of the segments that follow.

        Raises:
            MachineError: the segments of this node would not fit those of the others.
        """
        if self._job and self._job[0] == job:
            return
        fetched: VideoJob = job.fetch()
        self.upscaler.follow(fetched.identity, fetched.source.height, fetched.source.width)
        for name, value in {**self.upscaler.identity(), **versions()}.items():
            if fetched.identity[name] != value:
                raise MachineError(
                    f"its {name} is {value}, that of the run {fetched.identity[name]}, so the segments would not fit; "
                    "install the same packages on all nodes, and give --backend, --precision and --tile"
                )
        self._job = job, fetched

    def readable_path(self, source: SourceFile) -> Path | None:
        """Where this process can read the source; None: nowhere, its content has to be sent."""
        if source.visible():
            return source.path
        if source.content is None:
            return None
        if self._source is None or self._source[0] != source.content:
            if self._source is not None:
                self._source[1].close()
            self._source = source.content, ScratchFile(source.content.fetch().data)
        return self._source[1].path

    def upscale(self, source: Path, segment: Segment, progress: Callable[[int], None] | None) -> FinishedSegment:
        """Finish one segment of the job."""
        assert self._job is not None
        begin = time.perf_counter()
        job = replace(self._job[1], source=replace(self._job[1].source, path=source))
        before = replace(self.upscaler.counts)
        store = _MemoryStore()
        with _ended_if_stuck(self._stall_s):
            busy_s = upscale_segments(job, [segment], self.upscaler, store, progress=progress)
        (record,) = store.records
        return FinishedSegment(
            record=record,
            packets=np.frombuffer(store.packets.getbuffer(), np.uint8),
            node=_node(),
            seconds=time.perf_counter() - begin,
            busy_s=busy_s,
            counts=self.upscaler.counts.since(before),
        )


class _MemoryStore:
    """Keeps one segment in memory, to be sent through Ray's object store; see `SegmentStore`."""

    def __init__(self) -> None:
        self.packets = io.BytesIO()
        self.records: list[SegmentRecord] = []

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[IO[bytes]]:
        yield self.packets

    def add(self, record: SegmentRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def _ended_if_stuck(limit_s: float) -> Iterator[None]:
    """End this process if nothing moves within the block, see `Watchdog`; Ray then repeats the task in another one.

    If Python itself stands still, because a native library keeps the GIL, faulthandler does that, after twice as long.
    """
    if not limit_s:
        yield
        return

    def end(error: StallError) -> None:
        _LOG.critical("node %s: %s", _node(), error)
        faulthandler.dump_traceback()
        os._exit(error.exit_code)

    def postpone() -> None:
        faulthandler.dump_traceback_later(2 * limit_s, exit=True)

    postpone()
    try:
        with Watchdog(limit_s, end, postpone):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _reporter(counter: Any, segment: int) -> Callable[[int], None]:  # noqa: ANN401
    """A callback for `upscale_segments` that reports once in `REPORT_EVERY_S`."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S:
            last = now
            counter.report.remote(segment, done)

    return report


def _at_node(error: EsrganError) -> EsrganError:
    """The same error; the node's name is added where it matters, not for a bad model or option."""
    return type(error)(f"node {_node()}: {error}") if isinstance(error, MachineError | OutputError) else error


def _node() -> str:
    return socket.gethostname()
