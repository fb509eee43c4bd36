"""Runs a command of the project as if Windows or macOS were below it: a simulation on Linux, and not a proof.

    python tests/other_systems.py windows upscale picture.png -o large.png

What those systems lack is taken away, and what they refuse is refused, before the command is imported. Libraries that
have a way of their own on each system, as psutil has, keep what they need. Native code keeps everything.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  (these ask what the system has when they are imported, before anything is taken away)
import platformdirs  # noqa: F401
import psutil

KEPT_FOR = frozenset({"psutil", "filelock", "tempfile"})
"""Packages that know every system: on Linux they read /proc and remove open files, elsewhere they find another way."""
UNIX_MODULES = ("fcntl", "grp", "pwd", "termios")
UNIX_FUNCTIONS = (
    *("fork", "getuid", "geteuid", "getgid", "getegid", "getloadavg", "getpgid", "killpg", "setsid"),
    *("pread", "pwrite", "posix_fallocate", "sendfile", "sysconf", "wait4"),
)
NOT_IN_WINDOWS_NAMES = frozenset('<>:"|?*')


def without_affinity() -> None:
    """Neither Windows nor macOS has os.sched_getaffinity."""
    for name in ("sched_getaffinity", "sched_setaffinity"):
        delattr(os, name)


def without_proc() -> None:
    """Neither has /proc or /sys. Python opens files by several functions; each of them is told of no such file."""
    for module, name in (
        *((builtins, "open"), (io, "open"), (os, "open")),
        *((os, "listdir"), (os, "scandir"), (os, "stat"), (os, "readlink")),
    ):
        setattr(module, name, _without_proc(getattr(module, name)))


def without_unix() -> None:
    """Windows has none of these modules and functions. What is imported later finds no module of that name."""
    for module in UNIX_MODULES:
        sys.modules[module] = None  # type: ignore[assignment]  # by the import system's own convention
    for function in UNIX_FUNCTIONS:
        delattr(os, function)
    os.environ.setdefault("USERNAME", "someone")  # Windows always sets it; getpass reads it where there is no pwd


def strict_fsync() -> None:
    """Windows flushes only what is open for writing, and opens no folder."""
    import fcntl

    real_fsync, real_open = os.fsync, os.open

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        real_fsync(number)

    def open_file(path: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(path, str | os.PathLike) and Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    os.fsync, os.open = fsync, open_file


def strict_names() -> None:
    """Windows neither renames, replaces nor removes an open file; a rename replaces nothing, and ':' is in no name."""
    import shutil

    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # so that rmtree removes by whole paths, as there
    shown = _open_files()

    def refusing(real: Callable[..., Any], *, replaces: bool = True) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            for one in (path, *args[:1]):
                if isinstance(one, str | os.PathLike) and shown(os.path.realpath(one)) and not _called_by(*KEPT_FOR):
                    raise PermissionError(13, "The file is being used by another process", str(one))
            if not replaces and os.path.lexists(args[0]):
                raise FileExistsError(17, "Cannot create a file when that file already exists", str(args[0]))
            if args and isinstance(args[0], str | os.PathLike):
                _check_name(args[0])
            return real(path, *args, **kwargs)

        return call

    def naming(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike):
                _check_name(path)
            return real(path, *args, **kwargs)

        return call

    for name in ("remove", "unlink", "replace"):
        setattr(os, name, refusing(getattr(os, name)))
    os.rename = refusing(os.rename, replaces=False)
    os.open, os.mkdir = naming(os.open), naming(os.mkdir)
    io.open = builtins.open = naming(builtins.open)


def windows_text() -> None:
    """Text that says nothing else is in the code page cp1252 there, and its lines end in CR LF.

    Also what `os.write` writes, unless the file was opened with `os.O_BINARY`, which is there on Windows alone.
    """
    _translate_descriptors()
    real = builtins.open

    @functools.wraps(real)
    def open_text(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if "b" not in mode:
            encoding = "cp1252" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and set(mode) & set("wax+") else newline
        return real(file, mode, buffering, encoding, errors, newline, *args, **kwargs)

    io.open = builtins.open = open_text


SYSTEMS: Mapping[str, tuple[Callable[[], None], ...]] = {
    "linux": (),
    "macos": (without_affinity, without_proc),
    "windows": (strict_fsync, strict_names, windows_text, without_affinity, without_proc, without_unix),
}
"""What is done to this process for each system. strict_* use what without_* take away, and so come first."""


def become(system: str) -> None:
    """Make this process one on `system`, for good. Call it before anything of the project is imported."""
    for change in SYSTEMS[system]:
        change()
    _tell_pathlib()


def start(
    system: str, command: str, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `esrgan-COMMAND` in a fresh process on `system`; its two outputs are pipes.

    Its pipes carry cp1252 on Windows, where Python encodes what goes to no console by the code page.
    """
    coding = "cp1252" if system == "windows" else "utf-8"
    return subprocess.Popen(
        [sys.executable, __file__, system, command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding=coding,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": coding, **(env or {})},
    )


def run(system: str, command: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run `esrgan-COMMAND` to its end and return what it said on both outputs; fail if its exit code is not 0."""
    with start(system, command, *arguments, env=env) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, f"{system}: {out}{err}"
    return out + err


def _called_by(*packages: str) -> bool:
    """Whether a function of one of the packages called what is running, directly or through others."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in packages:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _tell_pathlib() -> None:
    """Python 3.10's pathlib has taken the functions of os and io when it was imported, and keeps them."""
    accessor = getattr(pathlib, "_NormalAccessor", None)
    for name in vars(accessor) if accessor else ():
        function = getattr(io if name == "open" else os, name, None)
        if callable(function):
            setattr(accessor, name, staticmethod(function))


def _without_proc(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
        hidden = isinstance(path, str | os.PathLike) and str(path).startswith(("/proc", "/sys"))
        if hidden and not _called_by(*KEPT_FOR):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *args, **kwargs)

    return call


def _translate_descriptors() -> None:
    os.O_BINARY = 0x40000000  # type: ignore[attr-defined]
    real_open, real_write, real_close = os.open, os.write, os.close
    text = set[int]()

    def open_file(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        file = real_open(path, flags & ~0x40000000, *args, **kwargs)
        if not flags & 0x40000000 and not _called_by(*KEPT_FOR):
            text.add(file)
        return file

    def write(file: int, data: Any) -> int:
        if file not in text:
            return real_write(file, data)
        real_write(file, bytes(data).replace(b"\n", b"\r\n"))
        return len(data)

    def close(file: int) -> None:
        text.discard(file)
        real_close(file)

    os.open, os.write, os.close = open_file, write, close


def _open_files() -> Callable[[str], bool]:
    """A function that says whether this process has a file open or mapped, or one below a folder.

    Locks do not count: they are filelock's, which releases them before it removes them where that is needed.
    """
    this = psutil.Process()

    def is_open(path: str) -> bool:
        held = {file.path for file in this.open_files()} | {area.path for area in this.memory_maps(grouped=True)}
        return any(file == path or file.startswith(path + os.sep) for file in held if not file.endswith("lock"))

    return is_open


def _check_name(path: str | os.PathLike[str]) -> None:
    name = os.path.basename(os.fspath(path))  # noqa: PTH119  (a Path may be one that is made to fail)
    if NOT_IN_WINDOWS_NAMES.intersection(name) or name.endswith((".", " ")):
        raise OSError(22, "The filename, directory name, or volume label syntax is incorrect", str(path))


def main(arguments: Sequence[str]) -> int:
    """Run a command of the project, found by its entry point, on the system that the first argument names."""
    system, command, *rest = arguments
    become(system)
    (entry,) = metadata.entry_points(group="console_scripts", name=f"esrgan-{command}")
    module, _, function = entry.value.partition(":")
    return int(getattr(importlib.import_module(module), function)(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
