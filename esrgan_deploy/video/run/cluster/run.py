"""Upscale a clip on a Ray cluster: each segment is a task, and this program, the driver, keeps the results."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.errors import MachineError, MediaError, ModelError, OptionError
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video.output.checkpoint import Checkpoint, open_checkpoint
from esrgan_deploy.video.run.cluster import worker
from esrgan_deploy.video.run.cluster.connection import (
    WorkerResources,
    count_slots,
    ray_connection,
    worker_resources,
)
from esrgan_deploy.video.run.cluster.upscaler_spec import UpscalerSpec
from esrgan_deploy.video.run.finish import VideoSummary, finish, missing
from esrgan_deploy.video.run.frames import FrameProgress
from esrgan_deploy.video.run.job import VideoJob, prepare_job
from esrgan_deploy.video.run.options import VideoOptions
from esrgan_deploy.video.source.decode import decoded_frames
from esrgan_deploy.video.source.segments import Segment
from esrgan_deploy.watchdog import moved, waiting_outside

LARGEST_SENT = 1 << 30
"""Bytes of a source that are sent to workers that do not see the file. A larger one has to be in a shared folder."""
PLAYLISTS = ("hls", "dash", "concat", "imf")
"""Formats, by FFmpeg's names, whose file only names the files that hold the video."""
RETRIES = 5
"""How often a task is repeated whose worker or node died."""
TASKS_PER_SLOT = 2
"""Segments for each worker that Ray holds: one at work, one that follows without a pause."""
POLL_S = 0.5
CANCEL_S = 3.0
COUNT_SLOTS_EVERY_S = 5.0
NO_NODE_S = 600.0
"""Seconds without any node that could work, after which the run ends."""


def upscale_on_ray(
    source: StrPath,
    target: StrPath,
    spec: UpscalerSpec,
    options: VideoOptions | None = None,
    *,
    address: str | None = None,
    resume: bool = False,
    progress: FrameProgress | None = None,
    note: Callable[[str], None] | None = None,
    stall_s: float = 0.0,
) -> VideoSummary:
    """Do what `upscale_video` does, with the workers of a Ray cluster. The target and `TARGET.parts` are the same.

    This machine reads and writes the files, and computes only where it is a node of the cluster itself. A program that
    is connected to Ray already stays connected, and `address` does not matter to it.

    Args:
        source: a clip that `probe` accepts. Workers read it at the same path, or get a copy if it is small.
        target: see `upscale_video`.
        spec: makes the Upscaler of each worker.
        options: which frames, and how they are encoded.
        address: "host:port" of a cluster, or "auto" for the one that this machine belongs to; None or "local": this
            machine alone, with a worker for each of its GPUs, or as many as `spec.threads` leaves room for.
        resume: go on with the segments that an interrupted run finished, on a cluster or not.
        progress: called about twice a second.
        note: called with a line that the user should see.
        stall_s: a worker in which nothing moves for so many seconds, or ten times as many while it computes, is ended,
            and its segment repeated like that of one that died; 0: never.

    Raises:
        BackendMissingError: Ray is not installed, or a node lacks the backend.
        MachineError: the cluster cannot be reached, has no node that is large enough, or one that would make another
            file; a worker died again and again; a worker cannot read the source.
        ModelError: the model cannot be used.
        MediaError, OptionError, OutputError: see `upscale_video`.
    """
    begin = time.perf_counter()
    options = options or VideoOptions()
    source, target = as_path(source), as_path(target)
    if options.preview:
        raise OptionError("--preview does not work with --ray: the frames are on other machines; leave out one of them")
    with ray_connection(address):
        workers = _Workers(spec, stall_s)
        job = prepare_job(source, target, options, workers.identity, workers.output_size, note)
        with open_checkpoint(target, job.identity, resume=resume) as checkpoint:
            driver = _Driver(workers, job, checkpoint, progress, note)
            driver.run(missing(job, checkpoint))
            return finish(job, checkpoint, target, driver.counts, driver.busy_s, begin)


class _Workers:
    """The workers of a run: the resources of each, and the Upscaler that each of them opens."""

    def __init__(self, spec: UpscalerSpec, stall_s: float) -> None:
        """Find out what the Upscaler is by opening it in one worker.

        Raises:
            ModelError: the model cannot be used.
            MachineError: no node is large enough, or the first one cannot do it.
        """
        self._spec = spec
        self._stall_s = stall_s
        self._model = worker.StoredObject(_put(_bytes_of(as_path(spec.model)))) if spec.model else None
        self._prepare(worker_resources(spec.backend, spec.threads))
        self.identity: dict[str, Any] = self._call(worker.identify)
        """See `Upscaler.identity`."""
        if self.resources.gpus and self.identity["backend"] not in GPU_BACKENDS:  # "auto" found no backend for the GPU
            self._prepare(worker_resources(self.identity["backend"], spec.threads))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Upscaler.output_size`."""
        size: tuple[int, int] = self._call(worker.output_size, height, width)
        return size

    def task(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401  # ray.remote_function.RemoteFunction
        """A function as a task with the resources of a worker, repeated if its node or its process dies."""
        import ray

        # By default a process that had a GPU serves one task only, and the next one would load the model again.
        decorate = ray.remote(
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_calls=0, max_retries=RETRIES
        )
        return decorate(function)

    def _prepare(self, resources: WorkerResources) -> None:
        self.resources = resources
        threads = self._spec.threads if resources.gpus else resources.cpus
        setup = worker.WorkerSetup(replace(self._spec, threads=threads), self._model, self._stall_s)
        self.setup = worker.StoredObject(_put(setup))

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  # what it returns
        result = _get(self.task(function).remote(self.setup, *arguments))
        if isinstance(result, worker.TaskFailure):
            raise result.error
        return result


class _Driver:
    """Submits the segments of one run as tasks, and keeps their results."""

    def __init__(
        self,
        workers: _Workers,
        job: VideoJob,
        checkpoint: Checkpoint,
        progress: FrameProgress | None,
        note: Callable[[str], None] | None,
    ) -> None:
        self._workers = workers
        self._job = job
        self._checkpoint = checkpoint
        self._note = note
        self._task = workers.task(worker.upscale_segment)
        self._stored_job = worker.StoredObject(_put(job))
        stat = job.source.path.stat()
        self._source = worker.SourceFile(job.source.path.absolute(), stat.st_size, stat.st_mtime)
        self._progress = _ClusterProgress(progress, job) if progress else None
        self._waiting: deque[Segment] = deque()
        self._in_flight: dict[Any, Segment] = {}
        self._slots = 0
        self._slots_counted_s = self._slots_seen_s = -float("inf")
        self.busy_s: Counter[str] = Counter()
        """Seconds that each stage was at work, of all workers together."""
        self.counts = Counts()

    def run(self, segments: Sequence[Segment]) -> None:
        """Finish `segments`, except for those after damage of the source.

        Raises:
            EsrganError: what a worker met; or workers died again and again.
            OutputError: a segment cannot be written.
        """
        import ray

        self._waiting.extend(segments)
        self._slots_seen_s = time.monotonic()
        try:
            while self._waiting or self._in_flight:
                self._count_slots()
                while self._waiting and len(self._in_flight) < TASKS_PER_SLOT * self._slots:
                    self._submit(self._waiting.popleft())
                if not self._in_flight:
                    with waiting_outside("a node"):
                        time.sleep(POLL_S)
                    continue
                ready, _ = ray.wait(list(self._in_flight), timeout=POLL_S)
                for reference in ready:
                    # If another result of this round has damage, the segments after it are cancelled already.
                    if segment := self._in_flight.pop(reference, None):
                        self._take(segment, _get(reference))
                if self._progress:
                    self._progress.show(self._checkpoint, [segment.index for segment in self._in_flight.values()])
        finally:
            self._cancel(lambda _segment: True)

    def _submit(self, segment: Segment) -> None:
        actor = self._progress.actor if self._progress else None
        reference = self._task.remote(self._workers.setup, self._stored_job, self._source, segment, actor)
        self._in_flight[reference] = segment

    def _count_slots(self) -> None:
        """Count every few seconds how many workers there can be: nodes come and go.

        Raises:
            MachineError: there has been no room for any for a long time.
        """
        now = time.monotonic()
        if now - self._slots_counted_s < COUNT_SLOTS_EVERY_S:
            return
        self._slots_counted_s = now
        found = count_slots(self._workers.resources)
        if not found and self._slots and self._note:
            self._note("no node is left that could work; waiting for one")
        self._slots = found
        if found:
            self._slots_seen_s = now
        elif now - self._slots_seen_s > NO_NODE_S:
            raise MachineError(
                f"--ray: no node with {self._workers.resources} for {NO_NODE_S / 60:.0f} minutes; "
                "start one with ray start --address, then --resume goes on"
            )

    def _take(self, segment: Segment, result: Any) -> None:  # noqa: ANN401  # what the task returned
        moved()
        if isinstance(result, worker.TaskFailure):
            raise result.error
        if isinstance(result, worker.SourceNotFound):
            self._send_source(result.node)
            self._submit(segment)
            return
        assert isinstance(result, worker.FinishedSegment)
        record = result.record
        if record.damage:
            record = replace(record, damage=self._confirmed_damage(segment, result.node))
        with self._checkpoint.file(segment.index) as file:
            file.write(result.packets.data)
        self._checkpoint.add(record)
        self.busy_s.update(result.busy_s)
        self.counts += result.counts
        if record.damage:
            self._waiting = deque(other for other in self._waiting if other.index < segment.index)
            self._cancel(lambda other: other.index > segment.index)

    def _confirmed_damage(self, segment: Segment, node: str) -> str:
        """Why the source ends in this segment, as this machine sees it.

        Raises:
            MachineError: it does not end there on this machine, so the node could not read it.
        """
        try:
            for _ in decoded_frames(self._job.source, self._job.scan, [segment]):
                pass
        except MediaError as error:
            return str(error)
        raise MachineError(
            f"node {node}: cannot read {self._source.path} to the end, which this machine can; check the shared folder"
        )

    def _send_source(self, node: str) -> None:
        """Put the source into Ray's object store, for workers that do not see the file.

        Raises:
            MachineError: it is too large for that.
        """
        if self._source.content:
            return
        path, size = self._source.path, self._source.size
        too_large = size > LARGEST_SENT
        if too_large or self._job.source.container in PLAYLISTS:
            kind = f"file of {size / 2**30:.1f} GiB" if too_large else "playlist"
            raise MachineError(
                f"node {node}: does not see {path} as it is on this machine, and a {kind} is not sent; put it "
                "into a folder that all machines share, or copy it with its time stamp (cp -p)"
            )
        content = np.asarray(np.memmap(path, np.uint8, "r"))  # Ray copies it without a second copy in this process
        self._source = replace(self._source, content=worker.StoredObject(_put(content)))

    def _cancel(self, which: Callable[[Segment], bool]) -> None:
        """Stop tasks: by an interrupt, after which they clean up, and by force where that takes too long."""
        import ray

        stopped = [reference for reference, segment in self._in_flight.items() if which(segment)]
        for reference in stopped:
            del self._in_flight[reference]
            ray.cancel(reference)
        if stopped:
            _, left = ray.wait(stopped, num_returns=len(stopped), timeout=CANCEL_S, fetch_local=False)
            for reference in left:
                ray.cancel(reference, force=True)


class _ClusterProgress:
    """Adds up the frames of all workers for the callback of the user."""

    def __init__(self, progress: FrameProgress, job: VideoJob) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._progress = progress
        self._job = job
        # On the driver's node, so that the loss of another node does not take it away.
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=this_node)(worker.FrameCounter).remote()
        self._asked = self.actor.frames.remote()
        self._frames: dict[int, int] = {}
        self._shown = 0

    def show(self, checkpoint: Checkpoint, in_flight: Sequence[int]) -> None:
        """Call back with what is done; a segment that is repeated takes nothing away from what was shown."""
        import ray

        if ray.wait([self._asked], timeout=0)[0]:
            frames = _get(self._asked)
            if frames != self._frames:
                self._frames = frames
                moved()
            self._asked = self.actor.frames.remote()
        self._shown = max(self._shown, checkpoint.frames + sum(self._frames.get(index, 0) for index in in_flight))
        self._progress(self._shown, max(self._shown, self._job.frames))


def _put(value: object) -> Any:  # noqa: ANN401  # ray.ObjectRef
    import ray

    return ray.put(value)


def _get(reference: Any) -> Any:  # noqa: ANN401
    """Wait for a task.

    Raises:
        MachineError: its workers died again and again, or cannot even import this package.
    """
    import ray
    from ray.exceptions import RayError, RaySystemError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, RaySystemError):  # the worker could not even read the arguments
            reason = str(error.cause).removeprefix("System error: ").split("\n", 1)[0]
            place = re.search(r"ip=([^)\s]+)", str(error))  # no attribute of Ray's error tells the node
            raise MachineError(
                f"node {place[1] if place else '?'}: {reason}; install the same esrgan-deploy and Ray there as on this "
                "machine, for the Python that runs Ray"
            ) from error
        raise error.cause from error
    except RayError as error:
        raise MachineError(
            f"--ray: workers died {RETRIES + 1} times at the same work: {' '.join(str(error).split())[:300]}; "
            "if they lack memory, give a smaller --tile or more --threads, then --resume goes on"
        ) from error


def _bytes_of(model: Path) -> Any:  # noqa: ANN401
    try:
        return np.fromfile(model, np.uint8)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read: {error.strerror}") from error
