"""One file from the network, complete and with the right hash, or not at all.

What has arrived stays in NAME.part, so that the next run goes on from there. pooch and requests do the talking; what
they do not do is here: resuming, a limit on what a server may send, and a sentence for each way to fail.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from esrgan_deploy.budget import MIB
from esrgan_deploy.errors import ModelError, OutputError
from esrgan_deploy.system.paths import ANOTHER_CACHE
from esrgan_deploy.watchdog import moved
from esrgan_deploy.zoo.entry import MOST_BYTES, ModelFile

if TYPE_CHECKING:
    import requests

MIRROR = "ESRGAN_MIRROR"
"""Environment variable: addresses, with spaces between, where files are looked for by their names, first of all."""
TRIES = 4
"""At one address; only one that brought something is followed by another."""
CHUNK = 1 << 16
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
TIMEOUT_S = (10.0, 30.0)
"""To connect, and without a byte."""
ASIDE = ".unexpected"
"""Behind the name of a file with another hash."""

Progress = Callable[[str, int, int], None]
"""Told what is done, how far it is, and of how much, in bytes; with 0 of 0, what is done is a message."""


class FetchError(Exception):
    """Why a file did not come from an address; the message begins with the address."""


class UnreachableError(FetchError):
    """Nobody answers there."""


class _StoppedError(FetchError):
    """It stopped in the middle, and can be resumed."""


def download(file: ModelFile, folder: Path, progress: Progress) -> Path:
    """Fetch `file` into `folder`, from the first address that has it.

    Raises:
        UnreachableError: nobody answers at any address.
        FetchError: no address has it; the message says why of each.
        ModelError: all that came has another hash; what came last is kept beside it, under the name in the message.
        OutputError: it cannot be written.
    """
    faults: list[FetchError] = []
    wrong: ModelError | None = None
    for url in addresses(file):
        try:
            return _download(url, file, folder, progress)
        except ModelError as error:
            wrong = error
            progress(str(error), 0, 0)
        except FetchError as error:
            faults.append(error)
    if wrong:
        raise wrong
    if all(isinstance(error, UnreachableError) for error in faults):
        raise UnreachableError("nobody answers at its addresses")
    raise FetchError("; ".join(map(str, faults)))


def addresses(file: ModelFile) -> list[str]:
    """Where `file` is asked for, one after the other."""
    mirrors = [f"{base.rstrip('/')}/{file.own_name}" for base in os.environ.get(MIRROR, "").split()]
    return [*mirrors, *file.urls]


def _download(url: str, file: ModelFile, folder: Path, progress: Progress) -> Path:
    part, target = (folder / f"{file.own_name}{ending}" for ending in (".part", ""))
    resumed = _size(part) > 0
    _receive(url, file, part, progress)
    found = sha256_of(part)
    if found != file.sha256 and resumed:  # what lay there was the beginning of something else
        part.unlink()
        _receive(url, file, part, progress)
        found = sha256_of(part)
    if found != file.sha256:
        aside = target.with_name(f"{target.name}{ASIDE}")
        part.replace(aside)
        kind = "is a web page" if _is_page(aside) else f"has SHA-256 {found}, and {file.sha256} is published"
        raise ModelError(f"{aside}: came from {url} and {kind}; it is not used. Fetch it in another way, or remove it")
    with part.open("rb+") as complete:
        os.fsync(complete.fileno())
    if target.exists():  # somebody has put something else there
        target.replace(target.with_name(f"{target.name}{ASIDE}"))
    part.replace(target)
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OutputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(MIB):
                digest.update(data)
        return digest.hexdigest()
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _receive(url: str, file: ModelFile, part: Path, progress: Progress) -> None:
    """Fill `part` from where it ends; try again as long as each try brings something."""
    for left in reversed(range(TRIES)):
        before = _size(part)
        try:
            _receive_once(url, file, part, progress)
            return
        except _StoppedError:
            if not left or _size(part) <= before:
                raise


def _receive_once(url: str, file: ModelFile, part: Path, progress: Progress) -> None:
    import requests
    from pooch import HTTPDownloader

    start = _size(part)
    _check_room(file, part, start)
    try:
        with part.open("ab") as out, closing(_Sink(url, out, file, start, progress)) as sink:
            headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
            get = HTTPDownloader(chunk_size=CHUNK, timeout=TIMEOUT_S, headers=headers, hooks={"response": sink.check})
            get(url, sink, None)
        if not _size(part):
            raise FetchError(f"{url}: answers with nothing")
    except requests.TooManyRedirects as error:
        raise FetchError(f"{url}: leads from one address to the next without an end") from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == RANGE_NOT_SATISFIABLE and start:
            return  # there is nothing behind what has come; its hash decides
        raise FetchError(f"{url}: {error}") from error
    except (requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
        size = f" of {file.bytes / MIB:.1f}" if file.bytes else ""
        raise _StoppedError(f"{url}: stopped after {_size(part) / MIB:.1f}{size} MiB, which are kept") from error
    except requests.ConnectionError as error:
        if _size(part) > start:
            raise _StoppedError(f"{url}: stopped after {_size(part) / MIB:.1f} MiB, which are kept") from error
        raise UnreachableError(f"{url}: cannot be reached") from error
    except requests.RequestException as error:
        raise FetchError(f"{url}: {type(error).__name__}: {error}") from error
    except OSError as error:
        why = error.strerror or error
        raise OutputError(
            f"{part}: cannot be written: {why}; make room, or {ANOTHER_CACHE}, and run it again: what came is kept"
        ) from error
    finally:
        if part.exists() and not _size(part):
            part.unlink()


class _Sink:
    """The file that a download is written to; it looks at the answer first, and ends what is too long."""

    def __init__(self, url: str, out: BinaryIO, file: ModelFile, start: int, progress: Progress) -> None:
        self._url = url
        self._out = out
        self._file = file
        self._size = start
        self._progress = progress
        self._total = file.bytes or 0
        self._answers: list[requests.Response] = []

    def check(self, response: requests.Response, *_args: Any, **_more: Any) -> None:  # noqa: ANN401 - of requests
        """Refuse a page, and begin anew where the server sends everything instead of the rest."""
        self._answers.append(response)
        if response.is_redirect or not response.ok:
            return
        if "html" in response.headers.get("Content-Type", "").lower():
            raise FetchError(f"{self._url}: answers with a web page instead of the file")
        if self._size and response.status_code != PARTIAL_CONTENT:
            self._out.truncate(0)
            self._size = 0
        elif not response.headers.get("Content-Range", f"bytes {self._size}-").startswith(f"bytes {self._size}-"):
            raise FetchError(f"{self._url}: answers with another part than was asked for")
        self._total = self._total or self._size + int(response.headers.get("Content-Length", 0))

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._size += len(data)
        most = self._file.bytes or MOST_BYTES
        if self._size > most:
            self._out.truncate(0)
            raise FetchError(f"{self._url}: sends more than the {most} bytes that the file has")
        self._out.write(data)
        moved()
        self._progress(f"downloading {self._file.own_name}", self._size, max(self._total, self._size))

    def close(self) -> None:
        """Hang up; requests does so only where all went well."""
        for response in self._answers:
            response.close()

    def flush(self) -> None:
        """Let a full disk be noticed now."""
        self._out.flush()


def _check_room(file: ModelFile, part: Path, start: int) -> None:
    needed = (file.bytes or 0) - start
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise OutputError(
            f"{part}: {needed / MIB:.1f} MiB are to come, and its disk has room for {free / MIB:.1f}; make room, or "
            f"{ANOTHER_CACHE}"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype", b"<html"))
