"""The commands: one file each. This file holds what every command shares: arguments, errors, exit codes."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from esrgan_deploy import __version__
from esrgan_deploy.budget import check_address_space, set_memory_limit
from esrgan_deploy.cli.terminal import (
    drop_unwritten,
    messages_shown,
    note,
    note_traceback,
    open_streams,
    printable,
    say,
)
from esrgan_deploy.errors import EsrganError, OptionError
from esrgan_deploy.system.environment import check_environment

INTERRUPTED = 130
TERMINATED = 143
OUR_FAULT = 1
RUST_PANIC = "pyo3_runtime"
"""The module of what libraries in Rust raise when they give up; it is no `Exception`."""
TRACEBACKS = "ESRGAN_TRACEBACKS"
"""Environment variable: a file that the traceback of each internal error is added to. The tests look into it."""
_ERROR_LENGTH = 600
"""Characters of a message about an argument, which may be the argument."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, as all errors of the commands are."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        memory = "the most memory that one input may need, in GiB (default: what is free)"
        self.add_argument("--max-memory", type=gibibytes, metavar="GB", help=memory)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        note(f"{self.prog}: {printable(message, _ERROR_LENGTH)} (see {self.prog} --help)")
        raise SystemExit(2)

    def _print_message(self, message: str, file: object = None) -> None:
        """Help and version, which argparse would lose without a word where they cannot be printed."""
        say(*message.splitlines())


def size(text: str) -> tuple[int, int]:
    """The argument '640x360' -> (640, 360): width and height, in the order that users write them."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})x([1-9][0-9]{0,6})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHT in pixels, for instance 1280x720")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """The argument '4' -> 4: frames in a batch."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of frames, 1 or more, of at most 9 digits")
    return int(text)


def gibibytes(text: str) -> int:
    """The argument '1.5' -> 1610612736 bytes."""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no amount of memory in GiB, for instance 8")
    return round(float(text) * 2**30)


def run(
    make_parser: Callable[[], Parser],
    command: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None,
    *,
    guard: Callable[[argparse.Namespace], AbstractContextManager[object]] | None = None,
) -> int:
    """Parse `argv`, run `command` and return the exit code; errors become one line on stderr.

    0 done, 1 a fault of ours, 2 bad input, 3 this machine cannot do it, 5 it stood still, 130 interrupted by Ctrl-C,
    143 by SIGTERM, after which a command cleans up as well.

    Args:
        make_parser: makes the parser of the arguments; called after a look at the memory, since it loads libraries.
        command: does the work.
        argv: None: this is a process of its own, and `argv` is that of the process.
        guard: makes what is around `command` in such a process; see `Guard`.
    """
    open_streams()
    prog, args = Path(sys.argv[0]).name, None
    with _sigterm_interrupts() as terminated, messages_shown():
        try:
            check_address_space()
            check_environment()
            parser = make_parser()
            prog = parser.prog
            args = parser.parse_args(argv)
            set_memory_limit(args.max_memory)
            _check_paths(args)
            with guard(args) if guard and argv is None else nullcontext():
                command(args)
        except KeyboardInterrupt as error:
            note(f"{prog}: interrupted; {str(error) or 'nothing was left half-written'}")
            return TERMINATED if terminated else INTERRUPTED
        except Exception as error:
            if _is_of_cleaning_up(error):
                note(
                    f"{prog}: interrupted; cleaning up failed ({type(error).__name__}: {' '.join(str(error).split())})"
                )
                return TERMINATED if terminated else INTERRUPTED
            return _failed(prog, error, args)
        except BaseException as error:
            if type(error).__module__ != RUST_PANIC:
                raise
            return _failed(prog, error, args)
        finally:
            set_memory_limit(None)
            drop_unwritten()
    return 0


def _is_of_cleaning_up(error: BaseException) -> bool:
    """Whether it arose while Ctrl-C was on its way out: of an import that was interrupted, for instance."""
    if isinstance(error, EsrganError):
        return False  # it was raised on purpose, as when a run stood still
    before = error.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


@contextmanager
def _sigterm_interrupts() -> Iterator[list[int]]:
    """Within the block SIGTERM is like Ctrl-C; the list is filled by it."""
    terminated: list[int] = []

    def terminate(number: int, _frame: FrameType | None) -> NoReturn:
        terminated.append(number)  # Ray makes another KeyboardInterrupt of the one that passes through it
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)


def _failed(prog: str, error: BaseException, args: argparse.Namespace | None) -> int:
    """Say what went wrong, and return the exit code; with --debug also where."""
    from esrgan_deploy.cli.funnel import mapped

    ours = mapped(error, args)
    if args and args.debug:
        note_traceback(error)
    if ours:
        note(f"{prog}: {ours}")
        return ours.exit_code
    if tracebacks := os.environ.get(TRACEBACKS):
        with Path(tracebacks).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    text = " ".join(str(error).split())
    note(f"{prog}: internal error: {type(error).__name__}: {text}; run again with --debug and report it")
    return OUR_FAULT


def _check_paths(args: argparse.Namespace) -> None:
    """Refuse paths that this system does not take for files, before anything looks for one.

    Raises:
        OptionError: a path is too long, or a name that is reserved.
    """
    from esrgan_deploy.system.paths import check_name

    for value in vars(args).values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                check_name(path, OptionError)
