"""The one place that prints: what came from outside reaches a terminal as text and nothing else.

The name of a file, a layer or a key of YAML may hold escape sequences, which move the cursor, change the title of a
window or hide what follows; directional marks, which reorder a line; and halves of characters, which cannot be encoded.

What a command prints is of three kinds. `say`: what it was asked for, a table or a list; if that cannot be printed, the
command has failed. `done`: that a file was made; the file is there even if nobody hears of it. `note`: what else there
is to know, on standard error, where a failure has nobody to be told.
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from esrgan_deploy.errors import OutputError

_SHOWN_LENGTH = 4000
"""Characters of a line; more comes from nobody's file name, only from a file that was made to fill a terminal."""
_JOINERS = "\u200c\u200d"
"""Invisible, and part of ordinary words in Persian and of ordinary emoji."""
_STREAMS = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
"""Name of each standard stream, in the order of their descriptors, and how its replacement is opened: so that reading
from a standard input that was closed fails, and writing to such an output, but not to standard error."""


def printable(text: object, at_most: int = _SHOWN_LENGTH) -> str:
    """`str(text)` on one line, with every character that is not shown as itself escaped, as in Python's source.

    Args:
        text: anything.
        at_most: of a longer text the middle is left out, and what remains has about so many characters.
    """
    line = _cut(str(text), at_most)
    if line.isprintable():
        return line
    return _cut("".join(map(_escaped, line)), at_most)


def _cut(line: str, at_most: int) -> str:
    return line if len(line) <= at_most else f"{line[: at_most - at_most // 10]} ... {line[-at_most // 20 :]}"


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def html_text(text: object) -> str:
    """As `printable`, for a page: nothing in it is markup."""
    return html.escape(printable(text))


def say(*lines: object) -> None:
    """Print each line on standard output, see `printable`; a line break inside one is escaped.

    Raises:
        OutputError: it cannot be printed: the disk is full, or whoever reads it has gone.
    """
    try:
        _print(sys.stdout, lines)
    except (OSError, ValueError) as error:
        raise OutputError(f"standard output: cannot be written: {_reason(error)}") from error


def done(*lines: object) -> None:
    """As `say`, of a file that is finished: where it cannot be printed, it goes to standard error."""
    try:
        _print(sys.stdout, lines)
    except (OSError, ValueError):
        note(*lines)


def note(*lines: object) -> None:
    """As `say`, on standard error; never fails."""
    with contextlib.suppress(OSError, ValueError):
        _print(sys.stderr, lines)


def note_traceback(error: BaseException) -> None:
    """Print where `error` arose, and what caused it."""
    for entry in traceback.format_exception(error):
        note(*entry.rstrip("\n").split("\n"))


def _print(stream: TextIO, lines: tuple[object, ...]) -> None:
    try:
        for line in lines:
            print(printable(line), file=stream)
        stream.flush()
    except (OSError, ValueError):
        _give_up(stream)
        raise


def _give_up(stream: TextIO) -> None:
    """Let what is still in the buffer go nowhere; Python would write it again at its end, and fail with code 120."""
    with contextlib.suppress(OSError, ValueError):  # no file of the system, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def drop_unwritten() -> None:
    """At the end of a command: what a failure has left in a buffer goes nowhere, see `_give_up`."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, BrokenPipeError):
        return "whoever read it has gone"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def open_streams() -> None:
    """Make standard streams usable: open those that are closed, and let them escape what they cannot encode.

    The number of a closed one would be given to the next file that is opened, such as the output, and what a library
    writes to standard error would end up in there. On Windows a pipe carries the code page, and a file's name must not
    fail the run that has just written the file.
    """
    for number, (name, flags, mode) in enumerate(_STREAMS):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, flags), True)  # gets the lowest number that is free: this one
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


class _Handler(logging.Handler):
    """Prints what this project and its libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, without the traceback that may be with it."""
        try:
            note(record.getMessage())
        except Exception:  # a library's message that does not fit its arguments
            note(record.msg)


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """Within the block, warnings and log messages of all packages become lines on standard error."""
    handler = _Handler(logging.WARNING)
    usual = warnings.showwarning

    def show(message: Warning | str, *_where: Any, **_more: Any) -> None:  # noqa: ANN401
        note(f"warning: {' '.join(str(message).split())}")

    warnings.showwarning = show
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        if warnings.showwarning is show:
            warnings.showwarning = usual
