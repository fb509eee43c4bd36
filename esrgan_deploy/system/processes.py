"""Processes and signals, as far as systems differ."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import subprocess
import sys
from collections.abc import Sequence


def start_apart(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that does not get the Ctrl-C of this one's terminal, with pipes to its stdin and stdout.

    Raises:
        OSError: it cannot be started.
    """
    pipe = subprocess.PIPE
    if sys.platform == "win32":
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, bufsize=0, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP
        )
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
    assert process.stdin
    os.set_blocking(process.stdin.fileno(), False)  # or a signal could wait for it
    return process


def exit_at_signal(number: int) -> None:
    """Let a signal print the stacks of all threads and end this process, in C, so that it works whoever holds the GIL.

    A handler of signals gets the signal's number, and so does the C function `_exit`, which takes it as the exit code.
    Where this cannot be set up, the signal ends the process as well, with another exit code. On Windows `os.kill` ends
    a process with the number as its exit code, whatever is set up.
    """
    if sys.platform == "win32":
        return
    import ctypes

    with contextlib.suppress(OSError, ValueError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal.restype = ctypes.c_void_p
        libc.signal(number, ctypes.cast(libc._exit, ctypes.c_void_p))
        faulthandler.register(number, all_threads=True, chain=True)
