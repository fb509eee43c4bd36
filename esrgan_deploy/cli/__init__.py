"""The commands: one file each. This file holds what every command shares: arguments, errors, exit codes."""

from __future__ import annotations

import argparse
import io
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from esrgan_deploy import __version__
from esrgan_deploy.budget import check_address_space, set_memory_limit
from esrgan_deploy.errors import EsrganError, OptionError
from esrgan_deploy.system.environment import check_environment

INTERRUPTED = 130
TERMINATED = 143
OUR_FAULT = 1


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
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


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
    parser: Parser,
    command: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None,
    *,
    guard: Callable[[argparse.Namespace], AbstractContextManager[object]] | None = None,
) -> int:
    """Parse `argv`, run `command` and return the exit code; errors become one line on stderr.

    0 done, 1 a fault of ours, 2 bad input, 3 this machine cannot do it, 5 it stood still, 130 interrupted by Ctrl-C,
    143 by SIGTERM, after which a command cleans up as well.

    Args:
        parser: of the arguments.
        command: does the work.
        argv: None: this is a process of its own, and `argv` is that of the process.
        guard: makes what is around `command` in such a process; see `Guard`.
    """
    _print_every_name()
    args = parser.parse_args(argv)
    terminated = False

    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        nonlocal terminated
        terminated = True  # Ray makes another KeyboardInterrupt of the one that passes through it
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, terminate)
    log, warnings = logging.getLogger("esrgan_deploy"), logging.StreamHandler()  # to stderr, from WARNING on
    log.addHandler(warnings)
    try:
        set_memory_limit(args.max_memory)
        check_address_space()
        check_environment()
        _check_paths(args)
        with guard(args) if guard and argv is None else nullcontext():
            command(args)
    except KeyboardInterrupt as error:
        print(f"{parser.prog}: interrupted; {str(error) or 'nothing was left half-written'}", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except EsrganError as error:
        if args.debug:
            raise
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        print(
            f"{parser.prog}: internal error: {type(error).__name__}: {text}; run again with --debug and report it",
            file=sys.stderr,
        )
        return OUR_FAULT
    finally:
        set_memory_limit(None)
        signal.signal(signal.SIGTERM, previous)
        log.removeHandler(warnings)
    return 0


def _print_every_name() -> None:
    """Let the outputs escape the characters that they cannot encode, instead of raising UnicodeEncodeError.

    On Windows a pipe carries the code page. A file's name must not fail the run that has just written the file.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


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
