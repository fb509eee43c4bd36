"""From a model's name to a file: in the user's folder, in the cache, in a Python package, or from the network."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from esrgan_deploy.budget import check_memory, check_regular
from esrgan_deploy.errors import MachineError, ModelError, OptionError, OutputError
from esrgan_deploy.system.locks import locked
from esrgan_deploy.system.paths import ANOTHER_CACHE, user_cache, writable_cache
from esrgan_deploy.zoo.convert import make, needs_torch, recall_made, torch_is_here
from esrgan_deploy.zoo.download import FetchError, Progress, addresses, download, sha256_of
from esrgan_deploy.zoo.entry import FORMS, Entry, ModelFile, Source
from esrgan_deploy.zoo.registry import FOLDER, entry_of, own_folder, own_model

_LOG = logging.getLogger(__name__)
CACHE = "models"
Ask = Callable[[str], bool]
"""Is asked whether a file is to be trusted whose hash nobody confirms; the argument says what is known."""


def model_file(name: str, ask: Ask, progress: Progress) -> Path:
    """As `zoo.fetch_model`, with a function that is asked whether to trust."""
    own = own_model(name)
    if own:
        return own if FORMS[own.suffix.lower()] == "onnx" else _converted(name, f"{name}.own", _parts(own), progress)
    entry = entry_of(name)
    if entry.bundled:
        return entry.bundled.onnx
    if made := made_before(entry):
        return made
    with own_place(name, progress) as folder:
        if made := made_before(entry):  # by whom the lock was waited for
            return made
        source, files = _obtain(entry, folder, ask, progress)
        hashes = {file.own_name: file.sha256 for file in source.files}
        return make(name, files, hashes, folder, progress, scale=entry.scale, overlap=entry.overlap)


def checkpoint_file(name: str, ask: Ask, progress: Progress, end: Literal["psnr", "gan"] = "gan") -> Path:
    """The file that esrgan-export reads: a checkpoint, or the .param of an ncnn model with its .bin beside it.

    Of a pair that comes with this package, `end` says which.

    Raises:
        ModelError: the model is published as ONNX only.
        EsrganError: see `zoo.fetch_model`.
    """
    own = own_model(name)
    if own:
        return own
    entry = entry_of(name)
    if entry.bundled:
        return entry.bundled.gan if end == "gan" else entry.bundled.psnr
    if not any(source.form != "onnx" for source in entry.sources):
        raise ModelError(
            f"{name}: is published as ONNX only, so there is nothing to export; it runs as it is: -m {name}"
        )
    with own_place(name, progress) as folder:
        return _obtain(entry, folder, ask, progress, to_export=True)[1][0]


def made_before(entry: Entry) -> Path | None:
    """The ONNX file of `entry` in the cache, made from files that are still published so; None: there is none."""
    folder = _kept_in(entry.name)
    made = recall_made(folder) if folder else None
    published = [{file.own_name: file.sha256 for file in source.files} for source in entry.sources]
    return made.onnx if made and made.files in published else None


def installed(source: Source) -> list[Path] | None:
    """The files of a source that a Python package carries, if that is installed; they are not looked into."""
    try:
        spec = importlib.util.find_spec(source.package) if source.package else None
    except (ImportError, ValueError):
        return None
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else None
    paths = [folder.joinpath(*PurePosixPath(file.name).parts) for file in source.files] if folder else []
    return paths if paths and all(path.is_file() for path in paths) else None


def _kept_in(name: str) -> Path | None:
    """The folder of a model in the cache, which may be one that can only be read; None: there is none."""
    try:
        folder = user_cache(CACHE) / name
    except OutputError:
        return None
    return folder if folder.is_dir() else None


@contextlib.contextmanager
def own_place(name: str, progress: Progress) -> Iterator[Path]:
    """The folder of a model in the cache, made and locked for the block."""
    folder = writable_cache(CACHE) / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; {ANOTHER_CACHE}") from error
    lock = folder.with_name(f"{name}.lock")
    with locked(lock, lambda: progress(f"{name}: another process fetches it; waiting for that", 0, 0)):
        yield folder


def converted(path: Path, progress: Progress) -> Path:
    """The ONNX form of a file that somebody names by its path, converted once; what is ONNX, or no model's file, as is.

    Raises:
        EsrganError: see `zoo.fetch_model`.
    """
    if FORMS.get(path.suffix.lower(), "onnx") == "onnx" or not path.is_file():
        return path
    files = _parts(path)
    for file in files:
        check_memory(file, "its content", check_regular(file, ModelError))
    return _converted(path.stem[:100], f"file-{sha256_of(files[-1])[:16]}", files, progress)


def _converted(name: str, place: str, files: list[Path], progress: Progress) -> Path:
    """What was made of `files` in the folder `place` of the cache, made anew where they have changed since."""
    with own_place(place, progress) as folder:
        hashes = {file.name: sha256_of(file) for file in files}
        made = recall_made(folder)
        if made and made.files == hashes:
            return made.onnx
        return make(name, files, hashes, folder, progress, scale=None, overlap=None)


def _parts(path: Path) -> list[Path]:
    """The file of a checkpoint, or the .param and the .bin of an ncnn model, of which either may be named."""
    if FORMS[path.suffix.lower()] != "ncnn":
        return [path]
    files = [path if path.suffix.lower() == suffix else path.with_suffix(suffix) for suffix in (".param", ".bin")]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{path}: {file.name} is missing beside it; ncnn models are a .param and a .bin file")
    return files


def _obtain(
    entry: Entry, folder: Path, ask: Ask, progress: Progress, *, to_export: bool = False
) -> tuple[Source, list[Path]]:
    """The files of the first source that can be had: what lies here, what a package carries, what can be fetched."""
    usable = [source for source in entry.sources if (source.form != "onnx" if to_export else _runs_here(source))]
    if not usable:
        needs_torch(entry.name)
    for source in usable:
        files = _put_here(source, folder) or _from_package(source)
        if files:
            _check_trusted(entry, source, ask)
            return source, files
    faults = []
    published = [source for source in usable if source.package is None]
    may = "" if entry.redistribute else ", which does not let everybody pass it on"
    progress(f"{entry.name}: fetched under its licence, {entry.licence}{may}", 0, 0)
    for source in published:
        _check_trusted(entry, source, ask)
        try:
            return source, [download(file, folder, progress) for file in source.files]
        except FetchError as error:
            faults.append(str(error))
    why = "; ".join(dict.fromkeys(faults))
    raise MachineError(f"{entry.name}: cannot be fetched: {why}. {_by_hand(published[0], folder)}")


def _runs_here(source: Source) -> bool:
    return source.form != "checkpoint" or torch_is_here()


def _put_here(source: Source, folder: Path) -> list[Path] | None:
    """The files of a source in the user's folder or in the cache, if all are there and are what is published."""
    for place in (own_folder(), folder):
        paths = [place / file.own_name for file in source.files] if place and not source.package else []
        if not paths or not all(path.is_file() for path in paths):
            continue
        wrong = _other_than_published(paths, source)
        if wrong is None:
            return paths
        _LOG.warning("%s: is not what is published, its SHA-256 differs; it is left alone", wrong)
    return None


def _from_package(source: Source) -> list[Path] | None:
    paths = installed(source)
    wrong = _other_than_published(paths, source) if paths else None
    if wrong is None:
        return paths
    _LOG.warning("%s: is not what %s is known to carry, its SHA-256 differs; not used", wrong, source.package)
    return None


def _other_than_published(paths: list[Path], source: Source) -> Path | None:
    """The first of `paths` that is not the file of `source` in its place."""
    pairs = zip(paths, source.files, strict=True)
    return next((path for path, file in pairs if sha256_of(path) != file.sha256), None)


def _check_trusted(entry: Entry, source: Source, ask: Ask) -> None:
    what = f"{entry.name}: the SHA-256 of {source.files[0].own_name} is known from {source.published}"
    if not source.confirmed and not ask(what):
        raise OptionError(f"{what}; nobody else confirms it. To take it all the same: --trust {entry.name}")


def _by_hand(source: Source, folder: Path) -> str:
    """What somebody without a connection does."""

    def one(file: ModelFile) -> str:
        return f"{addresses(file)[-1]} (SHA-256 {file.sha256})"

    files = " and ".join(map(one, source.files))
    place = own_folder() or (folder if folder == _kept_in(folder.name) else None)
    where = f"into {place}" if place else f"into a folder, and set {FOLDER} to it"
    return f"Put {files} {where}, and run it again"
