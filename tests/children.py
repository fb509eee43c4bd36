"""Processes that tests start."""

import signal
import subprocess
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def popen(command, **options: Any) -> subprocess.Popen:
    """Like `subprocess.Popen`, but the child begins with the usual signals.

    A shell without job control, and some CI runners, start what runs in the background with SIGINT ignored, which
    every child inherits: Ctrl-C would do nothing in it.
    """
    return subprocess.Popen(command, **options, **usual_signals())


def usual_signals() -> dict[str, Any]:
    """Arguments of `subprocess` that let a child begin with the usual signals."""
    if hasattr(signal, "pthread_sigmask"):
        return {"preexec_fn": _reset}
    return {}


def _reset() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
