"""A GPU made of numpy: the `Driver` contract, and an execution that uses every freedom that CUDA has.

Work given to a stream does not run when it is given. A seeded scheduler runs it later, in any order that stream order
and events allow, and only what a synchronisation needs must have run when that returns. So a missing `wait` or a
staging buffer that is filled again too early gives wrong data here, where a real GPU would mostly be lucky.

What only a faulty program does (freed memory, a forgotten `active()`, two unordered accesses to the same bytes)
raises `CudaBug`, at once and at every later call. What the machine does (no memory, a capture that fails) raises
`MachineError`, like the real drivers.
"""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.cuda.gpu import DeviceFacts
from esrgan_deploy.errors import MachineError
from fake_cuda_memory import CudaBug, Memory
from fake_cuda_scheduler import Capture, Event, Graph, Operation, Scheduler, Stream

FACTS = DeviceFacts("Fake GPU", (9, 0), "580.0", 13000, 1 << 30)
LEGACY_STREAM, PER_THREAD_STREAM = 1, 2


@dataclass
class Counters:
    """What has really happened; copies count when they are executed, also those in graphs."""

    copies_in: int = 0
    bytes_in: int = 0
    copies_out: int = 0
    bytes_out: int = 0
    allocations: int = 0
    pinned_allocations: int = 0
    launches: int = 0
    executions: int = 0
    """Of TensorRT contexts."""
    captures: int = 0


class FakeDriver(Driver):
    """See the module. `counters` and, after `close`, `leaked` tell what happened."""

    def __init__(self, facts=FACTS, *, graphs=True, seed=0, eagerness=0.3, detect_races=True):
        """`eagerness`: how probably work that nobody waits for is executed meanwhile.

        `detect_races`: raise `CudaBug` at the second of two accesses that nothing orders; else let data go wrong.
        """
        self.facts = facts
        self._has_graphs = graphs
        self.counters = Counters()
        self.leaked: dict[str, int] = {}
        self._memory = Memory(facts.total_memory, random.Random(seed))
        self._scheduler = Scheduler(seed, eagerness, detect_races)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._streams = {handle: Stream(handle) for handle in (LEGACY_STREAM, PER_THREAD_STREAM)}
        self._streams[0] = self._streams[LEGACY_STREAM]
        self._next_stream = 0x5000
        self._events: set[Event] = set()
        self._graphs: set[Graph] = set()
        self._fault: CudaBug | None = None
        self._closed = False

    @contextmanager
    def active(self):
        with self._lock:
            self._require(not self._closed, "active() after close()")
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1

    def memory(self):
        with self._call():
            return self.facts.total_memory - self._memory.used, self.facts.total_memory

    def allocate(self, nbytes):
        with self._call():
            self._not_in_capture("cuMemAlloc")
            self.counters.allocations += 1
            return self._memory.allocate(nbytes)

    def free(self, address):
        with self._call():
            self._not_in_capture("cuMemFree")
            self._scheduler.require_idle(self._memory.range_of(address), "memory was given back")
            self._memory.free(address)

    def allocate_pinned(self, nbytes):
        with self._call():
            self._not_in_capture("cuMemHostAlloc")
            self.counters.pinned_allocations += 1
            return self._memory.allocate_pinned(nbytes)

    def free_pinned(self, address):
        with self._call():
            self._not_in_capture("cuMemFreeHost")
            self._scheduler.require_idle(self._memory.range_of(address), "memory was given back")
            self._memory.free(address, pinned=True)

    def create_stream(self):
        with self._call():
            self._next_stream += 0x10
            self._streams[self._next_stream] = Stream(self._next_stream)
            return self._next_stream

    def destroy_stream(self, stream):
        with self._call():
            owner = self._stream(stream)
            self._require(owner.capture is None, "a stream was destroyed while it was captured")
            self._require(stream > PER_THREAD_STREAM, "a default stream cannot be destroyed")
            self._scheduler.finish(owner.last)
            del self._streams[stream]

    def synchronize_stream(self, stream):
        with self._call():
            self._not_in_capture("cuStreamSynchronize")
            owner = self._stream(stream)
            if owner.capture:
                self._fail_capture(owner.capture, "cuStreamSynchronize")
            self._scheduler.finish(owner.last)

    def create_event(self, *, timing=False):
        with self._call():
            event = Event(timing)
            self._events.add(event)
            return event

    def destroy_event(self, event):
        with self._call():
            self._event(event).alive = False
            self._events.remove(event)

    def record(self, event, stream):
        with self._call():
            self._event(event).capture = self._stream(stream).capture
            event.record = self._submit(stream, Operation("record", lambda: None))

    def wait(self, stream, event):
        with self._call():
            owner, record = self._stream(stream), self._event(event).record
            if record is None:
                return
            if owner.capture is None and event.capture is None:
                self._submit(stream, Operation("wait", lambda: None, before=[record]))
                return
            self._require(event.capture is not None, "a captured stream waits for an event from outside the capture")
            self._require(event.capture.origin.capture is event.capture, "waited for an event of a capture that ended")
            self._require(owner.capture in (None, event.capture), "waited for an event of another capture")
            owner.capture = event.capture
            self._submit(stream, Operation("wait", lambda: None, before=[record]))

    def synchronize(self, event):
        with self._call():
            self._not_in_capture("cuEventSynchronize")
            self._require(self._event(event).capture is None, "an event of a capture never happens")
            self._scheduler.finish(event.record)

    def elapsed_ms(self, start, end):
        with self._call():
            for event in (start, end):
                self._require(self._event(event).timing, "an event without timing has no time")
                self._require(event.record is not None and event.record.done, "an event has not happened yet")
            return end.record.at - start.record.at

    def copy_in(self, device, host, nbytes, stream):
        def run():
            self._memory.view(device, nbytes)[:] = self._memory.view(host, nbytes)
            self.counters.copies_in += 1
            self.counters.bytes_in += nbytes

        with self._call():
            self._memory.check(device, nbytes, pinned=False)
            self._memory.check(host, nbytes, pinned=True)
            self._submit(stream, Operation("copy in", run, reads=((host, nbytes),), writes=((device, nbytes),)))

    def copy_out(self, host, device, nbytes, stream):
        def run():
            self._memory.view(host, nbytes)[:] = self._memory.view(device, nbytes)
            self.counters.copies_out += 1
            self.counters.bytes_out += nbytes

        with self._call():
            self._memory.check(device, nbytes, pinned=False)
            self._memory.check(host, nbytes, pinned=True)
            self._submit(stream, Operation("copy out", run, reads=((device, nbytes),), writes=((host, nbytes),)))

    def begin_capture(self, stream):
        with self._call():
            if not self._has_graphs:
                raise MachineError("the fake driver cannot capture graphs")
            owner = self._stream(stream)
            self._require(owner.capture is None, "the stream is captured already")
            self._require(stream not in (0, LEGACY_STREAM), "the legacy stream cannot be captured")
            owner.capture = Capture(owner, threading.get_ident())
            self.counters.captures += 1

    def end_capture(self, stream):
        with self._call():
            owner = self._stream(stream)
            capture = owner.capture
            self._require(capture is not None and capture.origin is owner, "the capture did not begin on this stream")
            self._require(capture.thread == threading.get_ident(), "another thread began the capture")
            for member in self._streams.values():
                if member.capture is capture:
                    member.capture = None
            if capture.failure:
                raise MachineError(f"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: {capture.failure} cannot be captured")
            last = capture.last.get(owner)
            joined = last.ancestors() if last else set()
            if not joined.issuperset(capture.operations):
                raise MachineError("CUDA_ERROR_STREAM_CAPTURE_UNJOINED: a stream did not come back into the capture")
            graph = Graph(capture.operations)
            self._graphs.add(graph)
            return graph

    def launch(self, graph, stream):
        def run():
            self.counters.launches += 1
            waiting = list(graph.operations)
            done = set()
            while waiting:
                ready = [step for step in waiting if done.issuperset(step.before)]
                step = self._scheduler.random.choice(ready)
                step.run()
                waiting.remove(step)
                done.add(step)

        with self._call():
            self._require(graph.alive, "launched a graph that was destroyed")
            self._require(self._stream(stream).capture is None, "launched a graph inside a capture")
            reads = tuple(thing for step in graph.operations for thing in step.reads)
            writes = tuple(thing for step in graph.operations for thing in step.writes)
            before = [graph.launched] if graph.launched else []
            graph.launched = self._submit(stream, Operation("graph", run, reads, (*writes, graph), before))

    def destroy_graph(self, graph):
        with self._call():
            self._require(graph in self._graphs, "a graph was destroyed twice")
            self._scheduler.require_idle(graph, "a graph was destroyed")
            graph.alive = False
            self._graphs.remove(graph)

    def close(self):
        with self._lock:
            if self._fault:
                raise self._fault
            pending = [step.label for step in self._scheduler.pending]
            if self._closed or pending:
                self._fault = CudaBug("close() twice" if self._closed else f"close() with work in flight: {pending}")
                raise self._fault
            streams = len(self._streams) - 3
            found = {"streams": streams, "events": len(self._events), "graphs": len(self._graphs)}
            self.leaked = {what: count for what, count in {**found, **self._memory.kept()}.items() if count}
            self._closed = True

    # For the fake TensorRT and for tests.

    def upload(self, array):
        """A device copy of `array`, as if a caller had made it; its address."""
        array = np.ascontiguousarray(array)
        with self._lock:
            address = self._memory.allocate(array.nbytes)
            self._memory.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)
            return address

    def download(self, address, shape, dtype):
        """What device memory holds at this moment; work in flight is not waited for."""
        with self._lock:
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return self._memory.view(address, nbytes).copy().view(dtype).reshape(shape)

    def device_view(self, address, nbytes):
        """Device memory as bytes; only for operations that are being executed."""
        self._memory.check(address, nbytes, pinned=False)
        return self._memory.view(address, nbytes)

    def enqueue(self, stream, label, run, reads, writes):
        """Give an operation of somebody else (TensorRT) to a stream."""
        with self._call():
            for thing in (*reads, *writes):
                if isinstance(thing, tuple):
                    self._memory.check(*thing, pinned=False)
            self._submit(stream, Operation(label, run, tuple(reads), tuple(writes)))

    def reserve(self, nbytes, owner):
        """Device memory that TensorRT takes for itself; counted as leaked under `owner`'s name until released."""
        with self._call():
            self._not_in_capture("cuMemAlloc")
            return self._memory.allocate(nbytes, owner=owner)

    def release(self, address):
        """Give reserved memory back; from a finaliser, hence at any time."""
        with self._lock:
            if self._closed:
                return
            try:
                self._scheduler.require_idle(self._memory.range_of(address), "memory was given back")
                self._memory.free(address, owned=True)
            except CudaBug as bug:  # an exception would be lost in a finaliser; the next call raises it
                self._fault = bug

    def unused(self):
        """Bytes of device memory that are free, for whoever asks without a context."""
        return self.facts.total_memory - self._memory.used

    def require_idle(self, thing, what):
        """Raise `CudaBug` if work in flight uses `thing`."""
        with self._call():
            self._scheduler.require_idle(thing, what)

    def is_capturing(self, stream):
        with self._call():
            return self._stream(stream).capture is not None

    def fail_capture(self, stream, what):
        """What TensorRT does in a capture that it cannot be part of."""
        with self._call():
            self._stream(stream).capture.failure = what

    @contextmanager
    def _call(self):
        with self._lock:
            if self._fault:
                raise self._fault
            try:
                self._require(not self._closed, "used after close()")
                self._require(getattr(self._local, "depth", 0) > 0, "used outside active() in this thread")
                yield
            except CudaBug as bug:
                self._fault = bug
                raise

    @staticmethod
    def _require(condition, message):
        if not condition:
            raise CudaBug(message)

    def _stream(self, handle):
        self._require(handle in self._streams, f"stream {handle!r} does not exist (any more)")
        return self._streams[handle]

    def _event(self, event):
        self._require(isinstance(event, Event) and event.alive, "an event was used after it was destroyed")
        return event

    def _not_in_capture(self, what):
        """The capture of this thread breaks at calls like `what`; those of other threads do not."""
        for stream in self._streams.values():
            if stream.capture and stream.capture.thread == threading.get_ident():
                self._fail_capture(stream.capture, what)

    @staticmethod
    def _fail_capture(capture, what):
        capture.failure = what
        raise MachineError(f"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: {what} in a capture")

    def _submit(self, handle, operation):
        stream = self._stream(handle)
        if stream.capture:
            capture = stream.capture
            if stream in capture.last:
                operation.before.append(capture.last[stream])
            capture.last[stream] = operation
            capture.operations.append(operation)
            return operation
        if stream.last:
            operation.before.append(stream.last)
        self._scheduler.submit(operation)
        stream.last = operation
        return operation
