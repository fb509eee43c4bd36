"""A model that has a name: what it is for, and where its files are. Read from TOML, ours or the user's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from esrgan_deploy.errors import OptionError
from esrgan_deploy.model import LARGEST_SCALE
from esrgan_deploy.models import BundledModel

Form = Literal["onnx", "ncnn", "checkpoint"]
FORMS: dict[str, Form] = {
    ".onnx": "onnx",
    ".param": "ncnn",
    ".bin": "ncnn",
    ".safetensors": "checkpoint",
    ".pth": "checkpoint",
    ".pt": "checkpoint",
}
"""Suffix of a file -> what it holds. A checkpoint needs torch, once."""
MOST_BYTES = 2 << 30
"""Of a file whose size nobody has published."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_MODEL = ("purpose", "scale", "mflop", "licence", "redistribute", "home", "overlap", "weak_denoise", "from")
_OF_SOURCE = ("package", "at", "files", "published", "confirmed")
_OF_FILE = ("name", "sha256", "bytes")
_SHORT = ("url", "sha256")
"""In place of `from`, where the files of a model lie at one address each: a user's entry is four lines then."""


@dataclass(frozen=True)
class ModelFile:
    """One file as it is published."""

    name: str
    """What it is called; in a package: its path below the package."""
    sha256: str
    urls: tuple[str, ...]
    """Addresses of the same bytes, the first is asked first; none in a package."""
    bytes: int | None
    """None: nobody says."""

    @property
    def own_name(self) -> str:
        """Without folders."""
        return PurePosixPath(self.name).name


@dataclass(frozen=True)
class Source:
    """One or two files that hold a model."""

    files: tuple[ModelFile, ...]
    """One, or of ncnn the .param and the .bin."""
    form: Form
    published: str
    """Where the hashes can be found."""
    confirmed: bool
    """False: only somebody else than the authors or a registry says what the hash is."""
    package: str | None = None
    """The Python package that carries the files; None: they are downloaded."""


@dataclass(frozen=True)
class Entry:
    """A model by name."""

    name: str
    purpose: str
    scale: int
    licence: str
    """SPDX identifier, or what the authors say."""
    redistribute: bool
    """Whether the licence lets anybody pass the files on, for any use; without, they are only ever downloaded."""
    mflop: float | None
    """MFLOP for each input pixel, counted as in `flops`; None: not known."""
    sources: tuple[Source, ...]
    """The first that can be had is taken."""
    overlap: int | None = None
    """Context that tiles need, where it was measured; see `ModelInfo`."""
    weak_denoise: str | None = None
    """The model that leaves in the noise that this one removes: blends of both are in between."""
    bundled: BundledModel | None = None
    """What comes with this package; then there are no sources."""

    @property
    def bytes(self) -> int | None:
        """Of the download, the first that does not need torch."""
        best = min(
            self.sources, key=lambda source: (source.package is not None, source.form == "checkpoint"), default=None
        )
        sizes = [file.bytes for file in best.files] if best else []
        return sum(size for size in sizes if size) if sizes and all(sizes) else None


def parse(content: Mapping[str, Any], path: Path) -> dict[str, Entry]:
    """The models in a TOML file.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        OptionError: a key that is unknown or missing, or a value that cannot be; the message names it.
    """
    return {name: _Reader(path, name).entry(values) for name, values in content.items()}


class _Reader:
    """Reads one model; every message begins with the file and the model."""

    def __init__(self, path: Path, name: str) -> None:
        self._where = f"{path}: [{name}]"
        if not _NAME.fullmatch(name) or Path(name).suffix.lower() in FORMS:
            raise OptionError(f"{self._where} is no name for a model: letters, digits, '.', '_', '-', and no suffix")
        self._name = name

    def entry(self, values: object) -> Entry:
        table = self._table(values, (*_OF_MODEL, *_SHORT), "")
        scale = self._value(table, "scale", int)
        if not 1 <= scale <= LARGEST_SCALE:
            raise self._fault(f"scale = {scale} is no scale; give 1 to {LARGEST_SCALE}")
        mflop = table.get("mflop")
        if mflop is not None and not isinstance(mflop, (int, float)):
            raise self._fault(f"mflop = {mflop!r} is no number")
        sources = self._short(table) if "url" in table else self._sources(table.get("from", []))
        if not sources:
            raise self._fault("has neither url nor from, so there is nothing to fetch; add url and sha256")
        return Entry(
            self._name,
            self._value(table, "purpose", str, ""),
            scale,
            self._value(table, "licence", str),
            self._value(table, "redistribute", bool, True),
            None if mflop is None else float(mflop),
            sources,
            overlap=self._value(table, "overlap", int, None),
            weak_denoise=self._value(table, "weak_denoise", str, None),
        )

    def _short(self, table: Mapping[str, Any]) -> tuple[Source, ...]:
        urls, hashes = (value if isinstance(value := table.get(key), list) else [value] for key in _SHORT)
        if len(urls) != len(hashes):
            raise self._fault("url and sha256 differ in number; give one SHA-256 for each address")
        files = tuple(
            ModelFile(self._address(url).rpartition("/")[2], self._hash(sha256), (url,), None)
            for url, sha256 in zip(urls, hashes, strict=True)
        )
        return (Source(files, self._form(files), "this entry", confirmed=True),)

    def _sources(self, values: object) -> tuple[Source, ...]:
        if not isinstance(values, list):
            raise self._fault("from is no list of tables")
        return tuple(self._source(value) for value in values)

    def _source(self, values: object) -> Source:
        table = self._table(values, _OF_SOURCE, "from: ")
        package = self._value(table, "package", str, None)
        at = self._value(table, "at", list, [])
        if (package is None) == (not at):
            raise self._fault("from: give either package or at")
        for address in at:
            self._address(address)
        files = tuple(self._file(file, at) for file in self._value(table, "files", list))
        return Source(
            files,
            self._form(files),
            self._value(table, "published", str),
            self._value(table, "confirmed", bool, True),
            package,
        )

    def _file(self, values: object, at: list[str]) -> ModelFile:
        table = self._table(values, _OF_FILE, "files: ")
        name = self._value(table, "name", str)
        return ModelFile(
            name,
            self._hash(table.get("sha256")),
            tuple(f"{address.rstrip('/')}/{name}" for address in at),
            self._value(table, "bytes", int, None),
        )

    def _form(self, files: tuple[ModelFile, ...]) -> Form:
        for file in files:
            own = file.own_name
            inside = not {"/", ".."} & set(PurePosixPath(file.name).parts)
            if not inside or not _NAME.fullmatch(own) or not re.fullmatch(r"[\w./-]+", file.name):
                raise self._fault(f"'{file.name}' is no name for a file of a model")
        suffixes = sorted(Path(file.name).suffix.lower() for file in files)
        if len(suffixes) == 1 and FORMS.get(suffixes[0], "ncnn") != "ncnn":
            return FORMS[suffixes[0]]
        if suffixes == [".bin", ".param"]:
            return "ncnn"
        found = " and ".join(file.name for file in files) or "nothing"
        raise self._fault(f"{found} is no model; give one .onnx, .safetensors or .pth, or a .param and its .bin")

    def _hash(self, value: object) -> str:
        if not isinstance(value, str) or not _SHA256.fullmatch(value.lower()):
            raise self._fault(f"sha256 = {value!r} is no SHA-256; sha256sum FILE prints the 64 digits")
        return value.lower()

    def _address(self, value: object) -> str:
        if not isinstance(value, str) or not re.match(r"https?://[^/\s]+/\S*$", value):
            raise self._fault(f"{value!r} is no address; give one that begins with https://")
        return value

    def _table(self, values: object, known: tuple[str, ...], part: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise self._fault(f"{part}{values!r} is no table")
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                raise self._fault(f"{part}'{key}' is unknown" + (f"; did you mean {near[0]}?" if near else ""))
        return values

    def _value(self, table: Mapping[str, Any], key: str, kind: type, *default: Any) -> Any:  # noqa: ANN401 - of `kind`
        if key not in table:
            if default:
                return default[0]
            raise self._fault(f"'{key}' is missing")
        value = table[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._fault(f"{key} = {value!r} is no {kind.__name__}")
        return value

    def _fault(self, what: str) -> OptionError:
        return OptionError(f"{self._where}: {what}")
