"""Threads that hand frames to each other through short queues, and stop together.

A run is a chain of stages with a `Channel` between neighbours. A channel holds a few items only, so a fast stage waits
for a slow one and memory does not grow with the length of a clip. The first error of any stage stops all of them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from esrgan_deploy.watchdog import call_of, described, moved

if TYPE_CHECKING:
    from typing_extensions import Self

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818  # not an error: it unwinds a stage because another one failed
    """Raised by a channel inside a stage when the run has been stopped."""


LEAVE_S = 5.0
"""Seconds that stages have after a second Ctrl-C, before the files that they work on may be closed."""


@dataclass
class _Stage:
    """What a stage does, for whoever asks why nothing moves."""

    name: str
    thread: int | None = None
    taken: int = 0
    given: int = 0
    waits: str | None = None
    """For what; None: it is at work."""
    since: float = 0.0
    waited_s: float = 0.0

    def describe(self) -> str:
        """A line like "to YUV: took 8, gave 8, for 300 s waits for 'infer'"."""
        doing = f"waits {self.waits}" if self.waits else f"has been in {call_of(self.thread)}"
        return f"{self.name}: took {self.taken}, gave {self.given}, for {time.monotonic() - self.since:.0f} s {doing}"


class Stages:
    """The threads of one run, as a context manager; leaving it stops and joins them.

        with Stages() as stages:
            numbers = stages.channel(4)
            stages.start("produce", lambda: produce(numbers))  # calls numbers.put() and, at the end, numbers.close()
            for number in numbers:
                ...
            stages.join()

    The body of the `with` is a stage as well: it may use channels, and what it raises, KeyboardInterrupt included,
    stops the others. When several stages fail, the exception of the first one is what leaves the `with`.
    """

    def __init__(self) -> None:
        # One condition for all channels: they change a few hundred times a second at most, and stopping is one notify.
        self.changed = threading.Condition()
        self.stopped = False
        self.busy_s: dict[str, float] = {}
        """Seconds that each finished thread was at work, without its waits for a neighbour."""
        self._error: BaseException | None = None
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._stages: list[_Stage] = []
        self._own = threading.local()
        self._described = described(lambda: [stage.describe() for stage in self._stages])

    def channel(self, capacity: int) -> Channel[Item]:
        """A queue of at most `capacity` items between two stages of this run."""
        return Channel(self, capacity)

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread; `name` is its key in `busy_s`."""
        thread = threading.Thread(target=self._run, args=(name, work), name=f"esrgan-{name}", daemon=True)
        self._threads.append(thread)
        with self.changed:
            self._running += 1
        thread.start()

    @contextlib.contextmanager
    def here(self, name: str) -> Iterator[None]:
        """The body of this `with` is the stage `name`, in the calling thread."""
        stage = self.current()
        stage.name = name
        begin, waited_s = time.perf_counter(), stage.waited_s
        yield
        self.busy_s[name] = time.perf_counter() - begin - (stage.waited_s - waited_s)

    def join(self) -> None:
        """Wait until all threads are done.

        Raises:
            Stopped: one of them failed; leaving the `with` then raises its exception.
        """
        with self.changed:
            # Not Thread.join: a condition can be interrupted by Ctrl-C on every version of Python.
            self.changed.wait_for(lambda: not self._running or self.stopped)
            if self.stopped:
                raise Stopped

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for `condition` with `changed` held; the time counts as a wait of the calling thread.

        Raises:
            Stopped: the run was stopped.
        """
        stage = self.current()
        begin = time.perf_counter()
        stage.waits, stage.since = what, time.monotonic()
        self.changed.wait_for(lambda: self.stopped or condition())
        stage.waits, stage.since = None, time.monotonic()
        stage.waited_s += time.perf_counter() - begin
        if self.stopped:
            raise Stopped

    def check(self) -> None:
        """For work without a channel: let it end soon after the run was stopped.

        Raises:
            Stopped: the run was stopped.
        """
        if self.stopped:
            raise Stopped

    def current(self) -> _Stage:
        """The stage of the calling thread; a thread that has no name is the body of the `with`."""
        stage: _Stage | None = getattr(self._own, "stage", None)
        if stage is None:
            stage = self._own.stage = _Stage("body", threading.get_ident(), since=time.monotonic())
            self._stages.append(stage)
        return stage

    def waited_s(self) -> float:
        """Seconds that the calling thread has spent in `wait`."""
        return self.current().waited_s

    def _run(self, name: str, work: Callable[[], None]) -> None:
        self.current().name = name
        begin = time.perf_counter()
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # whatever it is, the main thread must raise it
            self._stop(error)
        finally:
            self.busy_s[name] = time.perf_counter() - begin - self.waited_s()
            self._stages.remove(self.current())
            with self.changed:
                self._running -= 1
                self.changed.notify_all()

    def _stop(self, error: BaseException | None) -> None:
        with self.changed:
            if not self.stopped:
                self.stopped = True
                self._error = error
            self.changed.notify_all()

    def _all_ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the threads; False if that took too long."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._running, timeout_s)

    def __enter__(self) -> Self:
        self._described.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error)
        try:
            self._all_ended()
        except KeyboardInterrupt:
            # The caller is about to close the files that the threads work on. So they have some seconds more to get out
            # of them, but a thread that is stuck in a native library must not keep everybody here for ever.
            if not self._all_ended(LEAVE_S):
                raise
        finally:
            self._described.__exit__(None, None, None)
        for thread in self._threads:
            thread.join()
        if self._error is not None and self._error is not error:
            raise self._error from None


class Channel(Generic[Item]):
    """A bounded queue: one stage puts and closes, another one iterates."""

    def __init__(self, stages: Stages, capacity: int) -> None:
        self._stages = stages
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._closed = False
        self._giver: _Stage | None = None
        self._taker: _Stage | None = None

    def put(self, item: Item) -> None:
        """Append `item`, waiting while the channel is full.

        Raises:
            Stopped: the run was stopped.
        """
        with self._stages.changed:
            self._giver = self._stages.current()
            self._stages.wait(lambda: len(self._items) < self._capacity, f"until {_name(self._taker)} takes one")
            self._items.append(item)
            self._giver.given += 1
            moved()
            self._stages.changed.notify_all()

    def put_all(self, items: Iterable[Item]) -> None:
        """Append `items` one after the other, then close.

        Raises:
            Stopped: the run was stopped.
        """
        for item in items:
            self.put(item)
        self.close()

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._stages.changed:
            self._closed = True
            self._stages.changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield items until the channel is closed and empty.

        Raises:
            Stopped: the run was stopped.
        """
        while True:
            with self._stages.changed:
                self._taker = self._stages.current()
                self._stages.wait(lambda: bool(self._items) or self._closed, f"for {_name(self._giver)}")
                if not self._items:
                    return
                item = self._items.popleft()
                self._taker.taken += 1
                moved()
                self._stages.changed.notify_all()
            yield item


def _name(stage: _Stage | None) -> str:
    return f"'{stage.name}'" if stage else "a stage that has not begun"
