"""What C libraries print on the error stream: the only place where some of them say what they met."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import IO, TypeVar

Result = TypeVar("Result")

_STDERR = 2
_one_at_a_time = threading.Lock()


def overheard(work: Callable[[], Result], theirs: re.Pattern[str]) -> tuple[Result, list[str]]:
    """Do a short piece of work, and collect what is printed on the error stream meanwhile.

    The stream belongs to the whole process: so only one thread listens at a time, and what another one prints meanwhile
    reaches the stream when the work is done. Without an error stream there is nothing to hear.

    Args:
        work: does the work.
        theirs: matches the beginning of each line that its libraries print; these lines are not printed.

    Returns:
        What `work` returned, and the lines that match.
    """
    with _one_at_a_time, _scratch() as heard:
        try:
            stream = os.dup(_STDERR)
        except OSError:  # closed
            return work(), []
        try:
            os.dup2(heard.fileno(), _STDERR)
            try:
                result = work()
            finally:
                os.dup2(stream, _STDERR)
                heard.seek(0)
                lines = heard.read().decode(errors="surrogateescape").splitlines(keepends=True)
                others = "".join(line for line in lines if not theirs.match(line))
                os.write(stream, others.encode(errors="surrogateescape"))
        finally:
            os.close(stream)
    return result, [line.rstrip() for line in lines if theirs.match(line)]


def _scratch() -> IO[bytes]:
    """In memory where the system has such files (Linux), since no place for others may be left."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("overheard"), "w+b")
    import tempfile  # slow to load

    return tempfile.TemporaryFile()
