"""Processes that tests start."""

import signal
import subprocess
from typing import Any


def popen(command, **options: Any) -> subprocess.Popen:
    """Like `subprocess.Popen`, but the child does not ignore Ctrl-C and SIGTERM.

    A shell without job control, and some CI runners, start what runs in the background with SIGINT ignored, which every
    child inherits. Signals that have a handler are not ignored in the child. (`preexec_fn` would need a fork, which
    Python 3.12 warns of where there are threads.)
    """
    ignored = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    try:
        return subprocess.Popen(command, **options)
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
