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
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818  # not an error: it unwinds a stage because another one failed
    """Raised by a channel inside a stage when the run has been stopped."""


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
        self._waits = threading.local()

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
        begin, waited_s = time.perf_counter(), self.waited_s()
        yield
        self.busy_s[name] = time.perf_counter() - begin - (self.waited_s() - waited_s)

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

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition` with `changed` held; the time counts as a wait of the calling thread.

        Raises:
            Stopped: the run was stopped.
        """
        begin = time.perf_counter()
        self.changed.wait_for(lambda: self.stopped or condition())
        self._waits.seconds = self.waited_s() + time.perf_counter() - begin
        if self.stopped:
            raise Stopped

    def check(self) -> None:
        """For work without a channel: let it end soon after the run was stopped.

        Raises:
            Stopped: the run was stopped.
        """
        if self.stopped:
            raise Stopped

    def waited_s(self) -> float:
        """Seconds that the calling thread has spent in `wait`."""
        return getattr(self._waits, "seconds", 0.0)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        begin = time.perf_counter()
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # whatever it is, the main thread must raise it
            self._stop(error)
        finally:
            self.busy_s[name] = time.perf_counter() - begin - self.waited_s()
            with self.changed:
                self._running -= 1
                self.changed.notify_all()

    def _stop(self, error: BaseException | None) -> None:
        with self.changed:
            if not self.stopped:
                self.stopped = True
                self._error = error
            self.changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error)
        while any(thread.is_alive() for thread in self._threads):
            # A second Ctrl-C must not let the caller close files that a thread still works on.
            with contextlib.suppress(KeyboardInterrupt):
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

    def put(self, item: Item) -> None:
        """Append `item`, waiting while the channel is full.

        Raises:
            Stopped: the run was stopped.
        """
        with self._stages.changed:
            self._stages.wait(lambda: len(self._items) < self._capacity)
            self._items.append(item)
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
                self._stages.wait(lambda: bool(self._items) or self._closed)
                if not self._items:
                    return
                item = self._items.popleft()
                self._stages.changed.notify_all()
            yield item
