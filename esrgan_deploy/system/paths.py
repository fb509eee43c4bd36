"""Names that a system takes for files, paths that are the same file, and the user's folder for what can be made again.

What a rule depends on is an argument, `system`, a value of `sys.platform`: so each is tested on every system.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
from pathlib import Path, PurePath, PureWindowsPath

from esrgan_deploy.errors import EsrganError, OutputError
from esrgan_deploy.system.ownership import strangers

_LOG = logging.getLogger(__name__)
ANOTHER_CACHE = "set XDG_CACHE_HOME to another folder"
"""The remedy where the user's cache is full, or cannot be written."""
_RESERVED = re.compile(r"(?is)(CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³]|CONIN\$|CONOUT\$) *(\..*)?")
"""Devices, which Windows finds in every folder, with any extension. Source: learn.microsoft.com, "Naming Files"."""
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_NAME_LENGTH = 255
"""UTF-16 units on Windows, bytes elsewhere."""
_PATH_LENGTHS = {"win32": 32767, "darwin": 1023}
_PATH_LENGTH = 4095
"""Bytes, elsewhere: PATH_MAX of Linux."""
_SHORT_PATH = 259
"""MAX_PATH of Windows, where long paths were not switched on; paths that begin with \\\\?\\ are never short."""
_VERBATIM = "\\\\?\\"


def check_name(path: Path, error: type[EsrganError] = OutputError, *, ending: str = "") -> None:
    """Refuse a path that this system does not take for a file: it is too long, or a device.

    Args:
        path: of the file.
        error: the kind to raise.
        ending: is written behind the name as well, for the name of a file or folder beside it.

    Raises:
        EsrganError: of the kind `error`; says what is wrong with the path, and what to do.
    """
    if ending and name_fault(f"{path}{ending}", long_paths=_long_paths_enabled()):
        check_name(path, error)
        raise error(f"{_short(str(path))}: leaves no room for {ending} behind it; shorten it")
    fault = name_fault(str(path), long_paths=_long_paths_enabled())
    if fault:
        raise error(fault)


def name_fault(path: str, system: str = sys.platform, *, long_paths: bool = True) -> str | None:
    """Why no file can be written under `path`, and the remedy, in one line; None: its name is no reason.

    Args:
        path: as the user gave it.
        system: whose rules hold, as in `sys.platform`.
        long_paths: whether Windows was told to take paths of more than 259 characters.
    """
    windows = system == "win32"
    names = (PureWindowsPath(path) if windows else PurePath(path)).parts
    for name in names:
        length = len(name.encode("utf-16-le", "surrogatepass")) // 2 if windows else len(os.fsencode(name))
        if length > _NAME_LENGTH:
            unit = "characters" if windows else "bytes"
            return f"{_short(path)}: a name of {length} {unit} in it is too long; {_NAME_LENGTH} is the most"
    longest = _PATH_LENGTHS.get(system, _PATH_LENGTH)
    length = len(path) if windows else len(os.fsencode(path))
    if length > longest:
        return f"{_short(path)}: this path is too long; {longest} is the most"
    if "\0" in path:
        return f"{_short(path)}: no name can hold a zero byte; name another file"
    return _windows_fault(path, long_paths) if windows else None


def _windows_fault(path: str, long_paths: bool) -> str | None:
    if path.startswith(_VERBATIM):  # which is taken as it is
        return None
    if len(path) > _SHORT_PATH and not long_paths:
        return f"{_short(path)}: is longer than {_SHORT_PATH} characters; shorten it, or begin it with {_VERBATIM}"
    whole = PureWindowsPath(path)
    for name in whole.parts[1:] if whole.anchor else whole.parts:
        if _RESERVED.fullmatch(name):
            return f"{path}: '{name}' is a device on Windows; name another file"
        if bad := _FORBIDDEN.search(name):
            return f"{path}: Windows takes no {bad[0]!r} in the name of a file; name another one"
        if name.rstrip(" .") != name and name not in (".", ".."):
            return f"{path}: Windows drops the dots and spaces at the end of '{name}'; name another file"
    return None


def real_path(path: Path) -> Path:
    """`path`, absolute and without links. A link that leads to itself stays one; `Path.resolve` may raise for it."""
    return Path(os.path.realpath(path))


def path_key(path: Path | str, system: str = sys.platform) -> str:
    """The same for paths that the system takes for the same file, whether that exists or not.

    Windows and macOS usually ignore case, and macOS how an accent is composed; links are not followed.
    """
    import unicodedata

    path = str(path)
    if system == "win32":
        return str(PureWindowsPath(path.removeprefix(_VERBATIM))).lower()
    return unicodedata.normalize("NFC", path).casefold() if system == "darwin" else path


def file_url(path: str, system: str = sys.platform) -> str:
    """How FFmpeg is told that `path` is a local file: without "file:", what is before a colon would be a protocol.

    Of a drive letter too: FFmpeg takes `file:C:/clip.mp4` for C:/clip.mp4. What a playlist names beside itself is found
    by the last slash of its own URL, so that Windows' separators are written as slashes, where it allows that.
    """
    slashes = system == "win32" and not path.startswith(_VERBATIM)
    return f"file:{path.replace(chr(92), '/') if slashes else path}"


def user_cache(name: str = "") -> Path:
    """The user's folder for what can be made again, on Linux `esrgan-deploy/NAME` in $XDG_CACHE_HOME or ~/.cache.

    It need not exist yet. By the XDG Base Directory Specification, relative paths in that variable are ignored. What is
    in it is used without a question, so it must be this user's, and nobody else may write to it.

    Raises:
        OutputError: there is no home folder, or others can write to the cache.
    """
    try:
        import platformdirs

        folder = platformdirs.user_cache_path("esrgan-deploy", appauthor=False)
    except ImportError:  # where os has no getuid, for instance on WASI
        folder = Path(os.environ.get("XDG_CACHE_HOME", "")) / "esrgan-deploy"
    except RuntimeError:
        folder = Path()
    nearest = next((parent for parent in folder.parents if os.access(parent, os.F_OK)), folder)
    if not folder.is_absolute() or not nearest.is_dir():  # the home of a service may be /dev/null
        raise OutputError("there is no home folder for a cache; set XDG_CACHE_HOME to a folder")
    for place in (folder, folder / name):
        _check_own(place)
    return folder / name


def user_config() -> Path | None:
    """The user's folder for what they write themselves, on Linux `esrgan-deploy` in $XDG_CONFIG_HOME or ~/.config.

    It need not exist. None: there is no home folder.
    """
    try:
        import platformdirs

        folder = platformdirs.user_config_path("esrgan-deploy", appauthor=False)
    except ImportError:  # where os has no getuid, for instance on WASI
        folder = Path(os.environ.get("XDG_CONFIG_HOME", "")) / "esrgan-deploy"
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _check_own(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it does not exist, or nobody can use it
        if fault := strangers(folder):
            raise OutputError(
                f"{folder}: {fault}, so what is in it cannot be trusted; set XDG_CACHE_HOME to a folder of yours, or "
                f"if this one is, and you know what is in it: chmod -R go-w {folder}"
            )


def user_cache_or_temporary(name: str) -> Path:
    """As `user_cache`; where that is not possible, a folder for this process alone, with a warning."""
    try:
        return user_cache(name)
    except OutputError as error:
        return temporary_cache(str(error)) / name


def make_user_cache(name: str = "") -> Path:
    """As `user_cache`, and made where it is missing, closed to other users.

    Raises:
        OutputError: there is no home folder, it cannot be written, or others can write to it.
    """
    folder = user_cache(name)
    try:
        for place in (user_cache(), folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; set XDG_CACHE_HOME to a folder") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: cannot be written; set XDG_CACHE_HOME to a folder")
    return user_cache(name)  # is still our own, if somebody was faster


def writable_cache(name: str = "") -> Path:
    """As `make_user_cache`; where that is not possible, a folder for this process alone, with a warning."""
    try:
        return make_user_cache(name)
    except OutputError as error:
        folder = temporary_cache(str(error)) / name
        folder.mkdir(exist_ok=True)
        return folder


def no_temporary(error: OSError) -> OutputError:
    """What to raise where a temporary file or folder could not be made."""
    why = error.strerror or error
    return OutputError(f"no temporary file can be written: {why}; make room, or set TMPDIR to another folder")


@functools.cache
def temporary_cache(reason: str) -> Path:
    """A folder that is removed at the end of this process; `reason`, why it is needed, is logged once.

    Raises:
        OutputError: there is no room for temporary files either.
    """
    import atexit
    import shutil
    import tempfile

    _LOG.warning("%s; now nothing is kept for the next run", reason)
    try:
        folder = Path(tempfile.mkdtemp(prefix="esrgan-deploy-"))
    except OSError as error:
        raise no_temporary(error) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _long_paths_enabled() -> bool:
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.WinDLL("ntdll").RtlAreLongPathsEnabled() & 0xFF)  # a BOOLEAN is one byte
    return True


def _short(path: str) -> str:
    """A long path as it fits on a line."""
    return path if len(path) <= 80 else f"{path[:50]}...{path[-27:]}"
