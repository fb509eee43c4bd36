"""The names that there are: the user's own, then ours."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.errors import OptionError
from esrgan_deploy.models import DEFAULT, MODELS, BundledModel
from esrgan_deploy.system.paths import user_config
from esrgan_deploy.zoo.entry import FORMS, Entry, parse

if TYPE_CHECKING or sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OURS = Path(__file__).with_name("registry.toml")
OWN = "models.toml"
"""What a user's file is called, in `own_folder` and in the folder of configurations."""
FOLDER = "ESRGAN_MODELS"
"""Environment variable: the user's folder of models, which is searched first."""


def own_folder() -> Path | None:
    """The folder that ESRGAN_MODELS names; None: it names none.

    Raises:
        OptionError: it is no folder.
    """
    value = os.environ.get(FOLDER)
    if not value:
        return None
    folder = Path(value)
    if not folder.is_dir():
        raise OptionError(f"{FOLDER}: {folder} is no folder; make it, or unset the variable")
    return folder


def entries() -> dict[str, Entry]:
    """Every model that has a name; an entry of the user's takes the place of ours.

    Raises:
        OptionError: a file of the user's cannot be read, or is wrong.
    """
    found = dict(_shipped())
    for path in reversed(own_files()):
        if path.exists():
            found.update(_read(path))
    return found


def own_files() -> list[Path]:
    """Where the user's own entries may be, the most important first."""
    folders = [own_folder(), user_config()]
    return [folder / OWN for folder in folders if folder]


def is_name(text: str) -> bool:
    """Whether a model is called so. False of what cannot be a name, without reading anything."""
    return not looks_like_path(text) and (text in entries() or own_model(text) is not None)


def looks_like_path(text: str) -> bool:
    """Whether it has a folder in it, or ends like the file of a model."""
    suffixes = (*FORMS, ".engine", ".plan", ".trt")
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return any(mark in text for mark in separators) or text.startswith(".") or Path(text).suffix.lower() in suffixes


def own_model(name: str) -> Path | None:
    """The file NAME.onnx, .param, .safetensors or .pth in the folder of ESRGAN_MODELS, the first there is.

    Raises:
        OptionError: ESRGAN_MODELS is no folder.
    """
    folder = own_folder()
    for suffix in FORMS if folder else ():
        path = folder / f"{name}{suffix}"  # type: ignore[operator]
        if suffix != ".bin" and path.is_file():
            return path
    return None


def entry_of(name: str) -> Entry:
    """The model that is called so.

    Raises:
        OptionError: none is; the message has the nearest names.
    """
    found = entries()
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name.lower(), found, 3, 0.5) or [n for n in found if name.lower() in n][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(found)}"
    raise OptionError(f"model '{name}' is unknown: no model has this name, and there is no such file; {hint}")


@functools.cache
def _shipped() -> dict[str, Entry]:
    """Our own: those that come with this package first."""
    bundled = {"default": MODELS[DEFAULT], **MODELS}
    return {name: _bundled(name, model) for name, model in bundled.items()} | _read(OURS)


def _bundled(name: str, model: BundledModel) -> Entry:
    return Entry(name, model.purpose, model.scale, model.licence, True, None, (), bundled=model)


def _read(path: Path) -> dict[str, Entry]:
    data = read_bytes(path, OptionError, TEXT_BYTES)
    try:
        content: dict[str, Any] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError among them
        raise OptionError(f"{path}: is no TOML file: {error}; docs/models.md shows an entry") from error
    return parse(content, path)
