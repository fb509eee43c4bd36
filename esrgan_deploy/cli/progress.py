"""Progress of long work: a bar with rate and ETA on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from esrgan_deploy.cli import terminal
from esrgan_deploy.watchdog import moved

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Call it with the count done so far, as often as you like."""

    def __init__(self, unit: str, total: int | None = None, start: int = 0) -> None:
        """`start` units were done before, at another time; the rate does not count them."""
        self._unit = unit
        self._total = total
        self._before = self._done = start
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit=unit, unit_scale=False, dynamic_ncols=True)

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show that `done` units of `total` are complete, and a `note` behind them."""
        if done != self._done:
            self._done = done
            moved()
        self._total = total or self._total
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.set_postfix_str(terminal.printable(note), refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            line = self._line(done, now - self._start)
            terminal.note(f"{line}, {note}" if note else line)

    def _line(self, done: int, seconds: float) -> str:
        rate = (done - self._before) / seconds
        if not self._total:
            return f"{done} {self._unit}s, {rate:.2f}/s"
        left = (self._total - done) / rate if rate else float("inf")
        return f"{done}/{self._total} {self._unit}s, {rate:.2f}/s, {left:.0f} s left"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class _Told:
    """What work calls with what it does, how far that is, and of how much; with a total of 0 it is a message.

    A message is always shown.
    """

    def __init__(self, last_line: float) -> None:
        self._bar: Any = None
        self._last_line = last_line

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` are complete; with a total of 0, the message `phase`."""
        moved()
        if not total:
            terminal.note(phase)
        elif sys.stderr.isatty():
            self._draw(phase, done, total)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            terminal.note(self._line(phase, done, total))

    def _draw(self, phase: str, done: int, total: int) -> None:
        raise NotImplementedError

    def _line(self, phase: str, done: int, total: int) -> str:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class BuildProgress(_Told):
    """Told of the build of an engine.

    Phases nest: the bar is that of the outermost, the one under way stands behind it.
    """

    def __init__(self) -> None:
        super().__init__(float("-inf"))
        self._outermost = ""

    def _draw(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._outermost = phase
            self._bar = tqdm(total=total, desc=terminal.printable(phase), unit="step", leave=False, dynamic_ncols=True)
        if phase == self._outermost:
            self._bar.update(done - self._bar.n)
            if done == total:
                self._close()
        else:
            self._bar.set_postfix_str(terminal.printable(f"{phase} {done}/{total}"), refresh=False)
            self._bar.update(0)  # draws it, if the last time was long enough ago

    def _line(self, phase: str, done: int, total: int) -> str:
        return f"{phase}: step {done} of {total}"


class DownloadProgress(_Told):
    """Told of downloads, in bytes, one after the other."""

    def __init__(self) -> None:
        super().__init__(time.monotonic())
        self._what = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have come; with a total of 0, the message `phase`."""
        if phase != self._what:
            self._close()
            self._what = phase
        super().__call__(phase, done, total)

    def _draw(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            text = terminal.printable(phase)
            self._bar = tqdm(
                total=total, initial=done, desc=text, unit="B", unit_scale=True, unit_divisor=1024, leave=False
            )
        self._bar.update(done - self._bar.n)

    def _line(self, phase: str, done: int, total: int) -> str:
        return f"{phase}: {done / 2**20:.1f} of {total / 2**20:.1f} MiB"
