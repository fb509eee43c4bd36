"""Upscale a clip on a Ray cluster: each segment is a task, and the journal of this machine collects them."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.errors import MachineError, MediaError, ModelError, OptionError
from esrgan_deploy.tile_reuse import Counts
from esrgan_deploy.video.output.checkpoint import Checkpoint, open_checkpoint
from esrgan_deploy.video.run.cluster import worker
from esrgan_deploy.video.run.cluster.connection import Demand, connected, demand, slots
from esrgan_deploy.video.run.cluster.recipe import UpscalerSpec
from esrgan_deploy.video.run.finish import finish, missing
from esrgan_deploy.video.run.job import VideoJob, prepare_job
from esrgan_deploy.video.run.options import VideoOptions
from esrgan_deploy.video.run.pipeline import Progress, VideoSummary
from esrgan_deploy.video.source.decode import decoded_frames
from esrgan_deploy.video.source.segments import Segment

LARGEST_SENT = 1 << 30
"""Bytes of a source that are sent to workers that do not see the file. A larger one belongs into a shared folder."""
PLAYLISTS = ("hls", "dash", "concat", "imf")
"""Formats, by FFmpeg's names, whose file only tells where the pictures are."""
ATTEMPTS_AGAIN = 5
"""How often a segment is tried again whose worker died."""
AHEAD = 2
"""Segments for each worker that Ray holds: one at work, one that follows without a pause."""
POLL_S = 0.5
CANCEL_S = 3.0
NODES_EVERY_S = 5.0
NO_NODE_S = 600.0
"""Seconds without any node that could work, after which the run ends."""


def upscale_on_ray(
    source: Path,
    target: Path,
    recipe: UpscalerSpec,
    options: VideoOptions | None = None,
    *,
    address: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> VideoSummary:
    """Do what `upscale_video` does, with the workers of a Ray cluster. The file and the journal are the same.

    This machine reads and writes the files, and computes only where it is a node of the cluster itself. A program that
    is connected to Ray already stays connected, and `address` does not matter to it.

    Args:
        source: a clip that `probe` accepts. Workers read it at the same path, or get a copy if it is small.
        target: see `upscale_video`.
        recipe: makes the Upscaler of each worker.
        options: what is asked for beside that.
        address: "host:port" of a cluster, or "auto" for the one that this machine belongs to; None or "local": this
            machine alone, with a worker for each of its GPUs, or as many as `recipe.threads` leaves room for.
        resume: go on with the segments that an interrupted run finished, on a cluster or not.
        progress: called now and then.
        note: called with a line that the user should see.

    Raises:
        BackendMissingError: Ray is not installed, or a node lacks the backend.
        MachineError: the cluster cannot be reached, has no node that is large enough, or one that would make another
            file; a worker died again and again; a worker cannot read the source.
        ModelError: the model cannot be used.
        MediaError, OptionError, OutputError: see `upscale_video`.
    """
    begin = time.perf_counter()
    options = options or VideoOptions()
    if options.preview:
        raise OptionError("--preview does not work with --ray: the frames are on other machines; leave out one of them")
    with connected(address):
        crew = _Crew(recipe)
        job = prepare_job(source, target, options, crew.identity, crew.output_size)
        if job.scan.damage and note:
            note(f"{job.scan.damage}; the frames before that are written")
        with open_checkpoint(target, job.identity, resume=resume) as checkpoint:
            before = sum(record.frames for record in checkpoint.records.values())
            work = _Work(crew, job, checkpoint, progress, note)
            work.run(missing(job, checkpoint))
            records = finish(job, checkpoint, target)
    frames = sum(record.frames for record in records)
    return VideoSummary(
        frames=frames,
        computed=frames - before,
        reused=sum(record.reused for record in records),
        tiles_reused=work.counts.share_reused,
        seconds=time.perf_counter() - begin,
        busy_s=dict(work.busy_s),
    )


class _Crew:
    """The workers: what they take of their nodes, what they are given, and what they are."""

    def __init__(self, recipe: UpscalerSpec) -> None:
        """Ask one of them.

        Raises:
            ModelError: the model cannot be used.
            MachineError: no node is large enough, or the first one cannot do it.
        """
        self._recipe = recipe
        self._model = worker.Stored(_put(_bytes_of(recipe.model))) if recipe.model else None
        self._equip(demand(recipe.backend, recipe.threads))
        self.identity = self._ask()
        if self.demand.gpus and self.identity["backend"] not in GPU_BACKENDS:  # "auto", and the GPU is of no use to it
            self._equip(demand(self.identity["backend"], recipe.threads))

    def _equip(self, wanted: Demand) -> None:
        self.demand = wanted
        threads = self._recipe.threads if wanted.gpus else wanted.cpus
        self.tools = worker.Stored(_put(worker.Tools(replace(self._recipe, threads=threads), self._model)))

    def _ask(self) -> dict[str, Any]:
        answer = _get(self.task(worker.identify).remote(self.tools))
        if isinstance(answer, worker.Failed):
            raise answer.error
        identity: dict[str, Any] = answer
        return identity

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Upscaler.output_size`."""
        size: tuple[int, int] = _get(self.task(worker.output_size).remote(self.tools, height, width))
        return size

    def task(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401  # Ray's wrapper of it
        """A function as a task of this size, which is tried again if its node or its process dies."""
        import ray

        # By default a process that had a GPU serves one task only, and the next one would load the model again.
        decorate = ray.remote(
            num_cpus=self.demand.cpus, num_gpus=self.demand.gpus, max_calls=0, max_retries=ATTEMPTS_AGAIN
        )
        return decorate(function)


class _Work:
    """The segments of one run, on their way through the cluster."""

    def __init__(
        self,
        crew: _Crew,
        job: VideoJob,
        checkpoint: Checkpoint,
        progress: Progress | None,
        note: Callable[[str], None] | None,
    ) -> None:
        self._crew = crew
        self._job = job
        self._checkpoint = checkpoint
        self._note = note
        self._task = crew.task(worker.upscale_segment)
        self._stored_job = worker.Stored(_put(job))
        stat = job.source.path.stat()
        self._source = worker.Source(job.source.path.absolute(), stat.st_size, stat.st_mtime)
        self._display = _Display(progress, job) if progress else None
        self._waiting: deque[Segment] = deque()
        self._in_flight: dict[Any, Segment] = {}
        self._slots = 0
        self._looked = self._had_slots = -float("inf")
        self.busy_s: Counter[str] = Counter()
        """Seconds of all workers together."""
        self.counts = Counts()

    def run(self, segments: Sequence[Segment]) -> None:
        """Finish `segments`, but for those behind damage of the source.

        Raises:
            EsrganError: what a worker met; or workers died again and again.
            OutputError: a segment cannot be written.
        """
        import ray

        self._waiting.extend(segments)
        self._had_slots = time.monotonic()
        try:
            while self._waiting or self._in_flight:
                self._count_slots()
                while self._waiting and len(self._in_flight) < AHEAD * self._slots:
                    self._submit(self._waiting.popleft())
                if not self._in_flight:
                    time.sleep(POLL_S)
                    continue
                ready, _ = ray.wait(list(self._in_flight), timeout=POLL_S)
                for reference in ready:
                    # Damage that another result of this round tells of may have taken this one off the list.
                    if segment := self._in_flight.pop(reference, None):
                        self._take(segment, _get(reference))
                if self._display:
                    self._display.show(self._checkpoint, [segment.index for segment in self._in_flight.values()])
        finally:
            self._cancel(lambda _segment: True)

    def _submit(self, segment: Segment) -> None:
        actor = self._display.actor if self._display else None
        reference = self._task.remote(self._crew.tools, self._stored_job, self._source, segment, actor)
        self._in_flight[reference] = segment

    def _count_slots(self) -> None:
        """Look now and then how many workers there can be: nodes come and go.

        Raises:
            MachineError: there has been none for a long time.
        """
        now = time.monotonic()
        if now - self._looked < NODES_EVERY_S:
            return
        self._looked = now
        found = slots(self._crew.demand)
        if not found and self._slots and self._note:
            self._note("no node is left that could work; waiting for one")
        self._slots = found
        if found:
            self._had_slots = now
        elif now - self._had_slots > NO_NODE_S:
            raise MachineError(
                f"--ray: no node with {self._crew.demand} for {NO_NODE_S / 60:.0f} minutes; "
                "start one with ray start --address, then --resume goes on"
            )

    def _take(self, segment: Segment, result: Any) -> None:  # noqa: ANN401  # what the task returned
        if isinstance(result, worker.Failed):
            raise result.error
        if isinstance(result, worker.Unseen):
            self._send_source(result.node)
            self._submit(segment)
            return
        assert isinstance(result, worker.Finished)
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
            MachineError: here it does not end, so the node could not read it.
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
        """Give the source to the workers that do not see it.

        Raises:
            MachineError: it is too large for that.
        """
        if self._source.content:
            return
        too_large = self._source.size > LARGEST_SENT
        if too_large or self._job.source.container in PLAYLISTS:
            kind = f"file of {self._source.size / 2**30:.1f} GiB" if too_large else "playlist"
            raise MachineError(
                f"node {node}: does not see {self._source.path} as it is here, and a {kind} is not sent; put it "
                "into a folder that all machines share, or copy it with its time stamp (cp -p)"
            )
        content = worker.Stored(_put(_mapped(self._source.path)))
        self._source = replace(self._source, content=content)

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


class _Display:
    """Progress over all workers."""

    def __init__(self, progress: Progress, job: VideoJob) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._progress = progress
        self._job = job
        # On this node, so that no other node's end takes it away.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=here)(worker.Progress).remote()
        self._asked = self.actor.frames.remote()
        self._frames: dict[int, int] = {}
        self._shown = 0

    def show(self, checkpoint: Checkpoint, at_work: Sequence[int]) -> None:
        """Call back with what is done; a segment that is done again takes nothing away from what was shown."""
        import ray

        if ray.wait([self._asked], timeout=0)[0]:
            self._frames = _get(self._asked)
            self._asked = self.actor.frames.remote()
        finished = sum(record.frames for record in checkpoint.records.values())
        self._shown = max(self._shown, finished + sum(self._frames.get(index, 0) for index in at_work))
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
            place = re.search(r"ip=([^)\s]+)", str(error))  # Ray says it nowhere else
            raise MachineError(
                f"node {place[1] if place else '?'}: {reason}; install the same esrgan-deploy and Ray there as here, "
                "for the Python that runs Ray"
            ) from error
        raise error.cause from error
    except RayError as error:
        raise MachineError(
            f"--ray: workers died {ATTEMPTS_AGAIN + 1} times at the same work: {' '.join(str(error).split())[:300]}; "
            "if they lack memory, give a smaller --tile or more --threads, then --resume goes on"
        ) from error


def _bytes_of(model: Path) -> Any:  # noqa: ANN401
    try:
        return np.fromfile(model, np.uint8)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read: {error.strerror}") from error


def _mapped(path: Path) -> Any:  # noqa: ANN401
    """The bytes of a file, which Ray copies without a second copy in this process."""
    return np.asarray(np.memmap(path, np.uint8, "r"))
