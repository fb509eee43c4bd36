"""Notice that a run stands still, and say what each part of it waits for.

Whatever gets on calls `moved`: an item that goes from one stage of a clip to the next, a frame that the network is
through with, a packet, a picture, a step of a build. A `Watchdog` looks once a second, and calls a function where
nothing has moved for long enough.

All of this is kept for the process, not for each run: of two runs in one process, the one that moves hides the other.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.errors import StallError

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Self

TICK_S = 1.0
BUSY_SHARE = 0.1
"""Of a core: a process that used more of it since the last move is at work, for instance on one large frame."""
BUSY_FACTOR = 10
"""How many times longer such a process may go without a move."""


_moves = 0
_outside: list[str] = []
_descriptions: list[Callable[[], list[str]]] = []


def moved() -> None:
    """Say that something got on."""
    global _moves
    _moves += 1  # two threads at once may count one move only, which is enough


@contextlib.contextmanager
def waiting_outside(what: str) -> Iterator[None]:
    """Within the block somebody else decides how long it takes: whoever is at the other end of a pipe, a lock."""
    _outside.append(what)
    try:
        yield
    finally:
        _outside.remove(what)
        moved()


@contextlib.contextmanager
def described(parts: Callable[[], list[str]]) -> Iterator[None]:
    """Within the block `parts` gives a line for each part of a run: how far it is, and what it waits for."""
    _descriptions.append(parts)
    try:
        yield
    finally:
        _descriptions.remove(parts)


class Standstill:
    """How long nothing has moved; `look` wants to be called once in `TICK_S`."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: of a process that does not compute; see `BUSY_FACTOR`. 0: there is no limit."""
        self._limit_s = limit_s
        self._still_s = 0.0
        self._moves = _moves
        self._cpu_s = time.process_time()
        self._looked = time.monotonic()

    def look(self) -> StallError | None:
        """An error that says who waits for whom, if nothing has moved for too long."""
        now = time.monotonic()
        # Not the time for which the process was stopped, or the machine asleep.
        passed, self._looked = min(now - self._looked, 2 * TICK_S), now
        if self._moves != _moves or _outside:
            self._moves, self._still_s, self._cpu_s = _moves, 0.0, time.process_time()
            return None
        self._still_s += passed
        busy = time.process_time() - self._cpu_s > BUSY_SHARE * self._still_s
        if not self._limit_s or self._still_s < self._limit_s * (BUSY_FACTOR if busy else 1):
            return None
        parts = [line for describe in tuple(_descriptions) for line in describe()]
        return StallError("; ".join([f"nothing has moved for {self._still_s:.0f} s", *parts]))


class Watchdog:
    """A thread that looks; as a context manager around the calls that it is to watch.

        def end(error):
            log.critical("%s", error)
            faulthandler.dump_traceback()
            os._exit(error.exit_code)  # nothing less ends a thread that is stuck in a native library

        with Watchdog(300, end):
            upscale_video("clip.mp4", "large.mp4", upscaler)

    It cannot help where Python itself stands still because a native library keeps the GIL for ever. The commands have a
    process for that; programs may use `faulthandler.dump_traceback_later`.
    """

    def __init__(
        self, limit_s: float, on_stall: Callable[[StallError], None], on_look: Callable[[], object] | None = None
    ) -> None:
        """Prepare.

        Args:
            limit_s: seconds without a move; ten times as many while this process computes.
            on_stall: called once, in the thread of the watchdog.
            on_look: called there every second.
        """
        self._standstill = Standstill(limit_s)
        self._on_stall = on_stall
        self._on_look = on_look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="esrgan-watchdog", daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(TICK_S):
            if self._on_look:
                self._on_look()
            if error := self._standstill.look():
                self._on_stall(error)
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def call_of(thread: int | None) -> str:
    """The innermost call of this package that the thread of this number is in, like "_infer in ov.py:107"."""
    frame: FrameType | None = sys._current_frames().get(thread or 0)
    while frame and Path(__file__).parent not in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return f"{frame.f_code.co_name} in {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "no call"
