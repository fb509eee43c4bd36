"""A command can always be ended, and does not stand still without saying so.

Within a `Guard` a thread watches that something moves, and that signals are obeyed: after the first Ctrl-C or SIGTERM
the command has some seconds for an orderly end, a second one ends it at once. Beside it runs the process of `monitor`,
for the case that no thread of Python gets a turn any more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from esrgan_deploy.cli.terminal import printable
from esrgan_deploy.system import monitor
from esrgan_deploy.system.files import remove_partials
from esrgan_deploy.system.processes import exit_at_signal, start_apart
from esrgan_deploy.watchdog import TICK_S, Standstill

if TYPE_CHECKING:
    from typing_extensions import Self

    from esrgan_deploy.errors import StallError

EXIT_CODES = {int(signal.SIGINT): 130, int(signal.SIGTERM): 143}
"""By signal."""


class Guard:
    """Around a command, in the main thread."""

    def __init__(self, prog: str, stall_s: float, kept: Path | None, grace_s: float = monitor.GRACE_S) -> None:
        """Prepare.

        Args:
            prog: the name of the command, for messages.
            stall_s: see `Standstill`.
            kept: the folder of finished segments, if the command makes one.
            grace_s: seconds for an orderly end.
        """
        self._prog = prog
        self._stall_s = stall_s
        self._kept = str(kept or "")
        self._grace_s = grace_s
        self._standstill = Standstill(stall_s)
        self._ended = threading.Event()
        self._signals: list[int] = []
        self._deadline = float("inf")
        self._monitor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, ValueError):  # without it, threads of Python are all that watches
            self._start_monitor()
        threading.Thread(target=self._watch, name="esrgan-guard", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The monitor stays: an interpreter that ends may hang as well, where it waits for threads.
        self._standstill = Standstill(0)

    def _start_monitor(self) -> None:
        arguments = [str(os.getpid()), str(self._stall_s), str(self._grace_s), self._prog, self._kept]
        self._monitor = start_apart([sys.executable, "-I", monitor.__file__, *arguments])
        assert self._monitor.stdin
        exit_at_signal(monitor.STALLED)
        signal.set_wakeup_fd(self._monitor.stdin.fileno(), warn_on_full_buffer=False)

    def _watch(self) -> None:
        """Take what the monitor sends: a tick each second, and signals. Without a monitor, only look each second."""
        if self._monitor:
            assert self._monitor.stdin
            assert self._monitor.stdout
            with contextlib.suppress(OSError):
                while data := self._monitor.stdout.read(1):
                    if data == monitor.TICK:
                        with contextlib.suppress(BlockingIOError):
                            self._monitor.stdin.write(bytes([monitor.BEAT]))
                        self._look()
                    else:
                        self._signalled(data[0])
        while not self._ended.wait(TICK_S):
            self._look()

    def _look(self) -> None:
        if error := self._standstill.look():
            self._end_stalled(error)
        if time.monotonic() > self._deadline:
            self._end(EXIT_CODES[self._signals[0]], "interrupted; ended at once, since an orderly end took too long")

    def _signalled(self, number: int) -> None:
        self._signals.append(number)
        if len(self._signals) == 1:
            self._deadline = time.monotonic() + self._grace_s
        else:
            self._end(EXIT_CODES[number], "interrupted again; ended at once")

    def _end_stalled(self, error: StallError) -> None:
        lines = str(error).split("; ")
        self._write(f"{self._prog}: {lines[0]} (--stall)", *(f"  {line}" for line in lines[1:]))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.dump_traceback(all_threads=True)
        self._end(error.exit_code, "ended, since nothing moved")

    def _end(self, code: int, why: str) -> None:
        """Leave without waiting for anything: threads that are stuck in native code never end."""
        remove_partials()
        self._write(f"{self._prog}: {why}; {monitor.advice(self._kept)}")
        os._exit(code)

    def _write(self, *lines: str) -> None:
        # Not by print: the thread that is stuck may hold the lock of sys.stderr.
        with contextlib.suppress(OSError):
            os.write(2, "".join(f"{printable(line)}\n" for line in lines).encode(errors="backslashreplace"))
