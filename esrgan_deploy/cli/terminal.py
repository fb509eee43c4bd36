"""The one place that prints: what came from outside reaches a terminal as text and nothing else.

The name of a file, a layer or a key of YAML may hold escape sequences, which move the cursor, change the title of a
window or hide what follows; directional marks, which reorder a line; and halves of characters, which cannot be encoded.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_SHOWN_LENGTH = 4000
"""Characters of a line; more comes from nobody's file name, only from a file that was made to fill a terminal."""
_JOINERS = "\u200c\u200d"
"""Invisible, and part of ordinary words in Persian and of ordinary emoji."""


def printable(text: object) -> str:
    """`str(text)` on one line, with every character that is not shown as itself escaped, as in Python's source."""
    line = str(text)
    if len(line) > _SHOWN_LENGTH:
        line = f"{line[: _SHOWN_LENGTH - 200]} ... {line[-150:]}"
    if line.isprintable():
        return line
    return "".join(character if _is_shown(character) else _escaped(character) for character in line)


def say(*lines: object, to: TextIO | None = None) -> None:
    """Print each line, see `printable`.

    Args:
        lines: one or more; a line break inside one is escaped.
        to: standard output if it is None.
    """
    stream = sys.stdout if to is None else to
    if stream is not None:  # pythonw and closed descriptors leave none
        print(*map(printable, lines), sep="\n", file=stream, flush=True)


def note(*lines: object) -> None:
    """As `say`, on standard error."""
    if sys.stderr is not None:
        say(*lines, to=sys.stderr)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
