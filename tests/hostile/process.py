"""One command in a child: forked from this process, or started anew; with limits, a deadline and its memory watched."""

import contextlib
import faulthandler
import importlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from hostile import ROOT

PROGRAMS = {
    "esrgan-upscale": "esrgan_deploy.cli.upscale",
    "esrgan-engine": "esrgan_deploy.cli.engine",
    "esrgan-bench": "esrgan_bench.cli",
    "esrgan-export": "esrgan_export.cli.export",
    "esrgan-eval": "esrgan_export.cli.eval",
    "esrgan-train": "esrgan_train.cli",
}
PATH = [str(ROOT / folder) for folder in (".", "export", "train", "benchmarks")]
KILLED_AT = 5 << 30
"""Bytes of memory at which a command is ended, for the good of this machine."""
FILE_LIMIT = 4 << 30
LOOK_S = 0.02


@dataclass
class Ended:
    """How a command ended."""

    code: int
    """Negative: killed by that signal."""
    seconds: float
    cpu_seconds: float
    peak: int
    """Bytes of memory."""
    hung: bool = False
    greedy: bool = False
    """Ended for its memory."""


def run(command, case_folder, outputs, cache, scratch, deadline_s):
    """Run `command` in `case_folder`; `outputs` are the files that take stdout and stderr."""
    if command.before:
        subprocess.run(command.before, check=True)
    begin = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _in_child(command, case_folder, outputs, cache, scratch)
        except BaseException:  # of the driver: what is of the command was caught
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    return _watch(child, command, begin, deadline_s)


def call(function, *arguments, deadline_s=120.0):
    """Call `function` in a forked child, which writes what it has to say; True if it returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return _watch(child, None, time.monotonic(), deadline_s).code == 0


def _watch(child, command, begin, deadline_s):
    peak, hung, greedy, signalled = 0, False, False, False
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        while not poll.poll(1000 * LOOK_S):
            peak = max(peak, _peak(child))
            passed = time.monotonic() - begin
            if command and command.signal and not signalled and passed > command.signal[1]:
                signalled = True
                os.kill(child, command.signal[0])
            hung, greedy = passed > deadline_s, peak > KILLED_AT
            if hung or greedy:
                os.kill(child, signal.SIGKILL)
                break
    finally:
        os.close(handle)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(OSError):  # what it has started, and left behind
        os.killpg(child, signal.SIGKILL)
    seconds = time.monotonic() - begin
    # What exec leaves counts the memory of the process before it, so of those only what was seen is taken.
    if not (command and command.apart):
        peak = max(peak, usage.ru_maxrss * 1024)
    return Ended(
        os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, peak, hung=hung, greedy=greedy
    )


def _peak(child):
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path(f"/proc/{child}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return 0


def _in_child(command, folder, outputs, cache, scratch):
    os.setsid()
    os.chdir(folder)
    _surround(command, cache, scratch)
    _connect(command, outputs)
    for name, value in {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": FILE_LIMIT, **command.limits}.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if command.user is not None:
        _become(command.user)
    if command.apart:
        program = PROGRAMS[command.words[0]]
        start = f"import sys; from {program} import main; sys.argv[0] = {command.words[0]!r}; sys.exit(main())"
        words = [os.fsencode(str(word)) for word in command.words[1:]]
        os.execv(sys.executable, [sys.executable, "-c", start, *words])
    return _in_process(command)


def _become(user):
    """Be another user, who may still read everything: the interpreter may lie in the home folder of this one."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    read_search = 1 << 2  # CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)(read_search, read_search, 0, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "capset")


def _surround(command, cache, scratch):
    os.environ.update(
        XDG_CACHE_HOME=str(cache), TMPDIR=str(scratch), HOME=str(cache), OMP_NUM_THREADS="1", PYTHONPATH=":".join(PATH)
    )
    import tempfile

    tempfile.tempdir = None
    for name, value in command.env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _connect(command, outputs):
    """Standard input, output and error of the command."""
    if command.stdin == "closed":
        os.close(0)
    else:
        source = os.memfd_create("stdin") if isinstance(command.stdin, bytes) else os.open(os.devnull, os.O_RDONLY)
        if isinstance(command.stdin, bytes):
            source = _fed(command.stdin)
        os.dup2(source, 0)
        os.close(source)
    for number, kind, path in zip((1, 2), (command.stdout, command.stderr), outputs, strict=True):
        if kind == "closed":
            os.close(number)
            continue
        if kind == "gone":
            reader, handle = os.pipe()
            os.close(reader)
        else:
            handle = os.open("/dev/full" if kind == "full" else path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, number)
        os.close(handle)


def _fed(data):
    """The reading end of a pipe that a further process writes `data` to."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.close(reader)
        with os.fdopen(writer, "wb") as file:
            file.write(data)
        os._exit(0)
    os.close(writer)
    return reader


def _in_process(command):
    """As an interpreter that has just been started would run the command."""
    faulthandler.enable(2)
    sys.stdin = open(0, encoding="utf-8", closefd=False) if _is_open(0) else None  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False) if _is_open(1) else None  # noqa: SIM115
    sys.stderr = _errors() if _is_open(2) else None
    _tell_of_connections()
    try:
        if command.run is not None:
            code = command.run()
        else:
            # As the interpreter decodes its arguments: names that are no UTF-8 have halves of characters.
            words = [os.fsdecode(os.fsencode(str(word))) for word in command.words]
            sys.argv[0] = words[0]
            code = importlib.import_module(PROGRAMS[words[0]]).main(words[1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        code = 120  # as Python ends then
    return code or 0


def _errors():
    return open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _tell_of_connections():
    def hook(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo"):
            target = arguments[1] if event == "socket.connect" else arguments[0]
            if not isinstance(target, (str, bytes)) or event == "socket.getaddrinfo":
                os.write(2, f"hostile: connection: {target!r}\n".encode())

    sys.addaudithook(hook)
