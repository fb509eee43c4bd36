"""Progress of long work: a bar with rate and ETA on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Call it with the count done so far, as often as you like."""

    def __init__(self, unit: str, total: int | None = None, start: int = 0) -> None:
        """`start` units were done before, at another time; the rate does not count them."""
        self._unit = unit
        self._total = total
        self._before = start
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit=unit, unit_scale=False, dynamic_ncols=True)

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show that `done` units of `total` are complete, and a `note` behind them."""
        self._total = total or self._total
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            line = self._line(done, now - self._start)
            print(f"{line}, {note}" if note else line, file=sys.stderr, flush=True)

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
