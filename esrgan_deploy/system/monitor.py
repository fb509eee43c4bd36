"""A small process beside a command, which can end it when no Python code runs in the command any more.

A native library that keeps the GIL for ever stops all threads of Python with it: neither Ctrl-C nor a watchdog thread
gets a turn. What Python still does is to write the number of each signal into a pipe, `signal.set_wakeup_fd`, from C.
This process reads that pipe. Each second it sends a `TICK` to the command, where a thread answers with a `BEAT`, and it
passes on the signals. As long as beats come, that thread decides what happens; when they stay away, this process does.

It is started by its path and imports nothing of this package, so it costs 10 MB and a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

BEAT = 255
"""No signal has this number."""
TICK = b"\0"
TICK_S = 1.0
GRACE_S = 8.0
"""Seconds for an orderly end after the first signal. Containers are killed ten seconds after SIGTERM."""
SILENT_S = 3.0
"""Without a beat for so long, nobody else will answer a signal."""
BUSY_FACTOR = 10
BUSY_SHARE = 0.1
STALLED = 5
"""The exit code, see `StallError`. It is a signal as well, SIGTRAP: see `processes.exit_at_signal`."""
if sys.platform == "win32":
    KILL = signal.SIGTERM  # which os.kill takes for an exit code there
else:
    KILL = signal.SIGKILL


def advice(kept: str) -> str:
    """What a user can do; `kept` is the folder of finished segments, if the command has one."""
    if kept and any(Path(kept).glob("*.packets")):
        return f"what is finished lies in {kept}; the same command with --resume goes on"
    return "nothing is kept of it"


class Monitor:
    """What is known of the command, and when to end it."""

    def __init__(self, command: int, stall_s: float, grace_s: float, prog: str, kept: str) -> None:
        self._command = command
        self._grace_s = grace_s
        self._stall_s = stall_s
        self._prog = prog
        self._kept = kept
        self.ending = False
        """What the user has to know is not said yet, even if the command has ended."""
        self._silent_s = 0.0
        self._cpu_s: float | None = None
        self._signals: list[tuple[int, float]] = []

    def heard(self, byte: int) -> None:
        """Take a byte of the command."""
        if byte == BEAT:
            self._silent_s, self._cpu_s = 0.0, None
        elif byte in (signal.SIGINT, signal.SIGTERM):
            self._signals.append((byte, time.monotonic()))
            _tell(bytes([byte]))

    def tick(self) -> None:
        """A second has passed: end the command if it should have ended, or if nothing moves in it any more."""
        _tell(TICK)
        stopped, cpu_s = _state(self._command) if self._silent_s >= SILENT_S else (False, None)
        if stopped:  # by Ctrl-Z or a debugger
            return
        self._silent_s += TICK_S
        if self._silent_s < SILENT_S:
            return
        if self._signals and (len(self._signals) > 1 or time.monotonic() - self._signals[0][1] > self._grace_s):
            self._end(KILL, "does not answer; killed")
        self._cpu_s = cpu_s if self._cpu_s is None else self._cpu_s
        busy = cpu_s is not None and self._cpu_s is not None and cpu_s - self._cpu_s > BUSY_SHARE * self._silent_s
        if self._stall_s and self._silent_s >= self._stall_s * (BUSY_FACTOR if busy else 1):
            self._end(STALLED, f"no Python code has run in it for {self._silent_s:.0f} s (--stall); its stacks follow")

    def _end(self, number: int, why: str) -> None:
        """On Windows the number is the exit code, elsewhere it is a signal."""
        self.ending = True
        _say(f"{self._prog}: {why}")
        with contextlib.suppress(OSError):  # it has ended
            os.kill(self._command, number)
            time.sleep(TICK_S)
            os.kill(self._command, KILL)
        _say(f"{self._prog}: {advice(self._kept)}")
        os._exit(0)


def _say(line: str) -> None:
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, f"{shown}\n".encode(errors="backslashreplace"))


def _tell(data: bytes) -> None:
    try:
        os.write(1, data)
    except OSError:
        os._exit(0)  # the command has ended


def _state(process: int) -> tuple[bool, float | None]:
    """Whether a process was stopped from outside, and the processor time that it has used; as far as that is known."""
    try:
        import psutil

        command = psutil.Process(process)
        times = command.cpu_times()
        return command.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP), times.user + times.system
    except Exception:  # no psutil, or no right to look
        return False, None


def main(monitor: Monitor) -> None:
    """Run until the command has ended."""
    read: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while data := os.read(0, 64):
            read.put(data)
        if not monitor.ending:
            os._exit(0)  # the command has ended

    threading.Thread(target=listen, daemon=True).start()
    next_tick = time.monotonic() + TICK_S
    while True:
        try:
            for byte in read.get(timeout=max(0.0, next_tick - time.monotonic())):
                monitor.heard(byte)
        except queue.Empty:
            next_tick = time.monotonic() + TICK_S
            monitor.tick()


if __name__ == "__main__":
    main(Monitor(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))
