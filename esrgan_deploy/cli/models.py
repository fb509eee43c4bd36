"""-m NAME, in every command: names beside paths, and the question of trust."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.cli import terminal
from esrgan_deploy.cli.progress import DownloadProgress
from esrgan_deploy.errors import OptionError
from esrgan_deploy.watchdog import waiting_outside

if TYPE_CHECKING:
    from esrgan_deploy.zoo.find import Ask

HELP = "or a name of esrgan-upscale --list-models"


class ModelName(str):
    """An argument that is no path at first sight."""


def model_argument(text: str) -> Path | ModelName:
    """A file, or what may be the name of a model.

    It is a file where it has a folder in it or ends like a model's file does; of anything else, `find` decides.
    """
    from esrgan_deploy.zoo.registry import looks_like_path

    return Path(text) if looks_like_path(text) or not text else ModelName(text)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option that answers the question before it is asked."""
    trust = "take this model though nobody but its address confirms its hash"
    parser.add_argument("--trust", metavar="NAME", action="append", default=[], help=trust)


def find_model(given: Path | ModelName, args: argparse.Namespace) -> Path:
    """The ONNX file, or engine, that an argument means; it is fetched and converted where that is still to do.

    Raises:
        EsrganError: see `zoo.fetch_model`.
    """
    from esrgan_deploy.zoo.find import converted

    with DownloadProgress() as progress:
        return converted(find_file(given, args), progress)


def find_file(given: Path | ModelName, args: argparse.Namespace) -> Path:
    """As `find_model`, but a file stays what it is: a checkpoint, where one is given by its path.

    Raises:
        EsrganError: see `zoo.fetch_model`.
    """
    from esrgan_deploy.zoo.find import model_file

    return find(given, args, model_file)


def find_denoised(given: Path | ModelName | None, args: argparse.Namespace) -> Path:
    """As `find_model`, of a model at `args.denoise`.

    Raises:
        OptionError: what was given has no second network that keeps noise.
        EsrganError: see `zoo.fetch_model`.
    """
    from esrgan_deploy.zoo.denoise import denoised_model, models_with_denoise
    from esrgan_deploy.zoo.registry import is_name

    if given is None or isinstance(given, Path) or (Path(given).exists() and not is_name(given)):
        what = "the default model" if given is None else f"'{given}' is a file, which"
        raise OptionError(
            f"--denoise {args.denoise:g}: {what} has no second network that keeps noise; leave it out, or name a model "
            f"that has one: -m {' or '.join(models_with_denoise())}"
        )
    return find(given, args, lambda name, ask, progress: denoised_model(name, args.denoise, ask, progress))


def find(given: Path | ModelName, args: argparse.Namespace, get: Callable[[str, Ask, DownloadProgress], Path]) -> Path:
    """The file that an argument means. A name goes before a file of the same name, which is said.

    Raises:
        OptionError: neither a name nor a file.
        EsrganError: see `zoo.fetch_model`.
    """
    if isinstance(given, Path):
        return given
    from esrgan_deploy.zoo.registry import is_name

    if not is_name(given) and Path(given).exists():
        return Path(given)
    if Path(given).is_file():
        terminal.note(f"{given}: taken as the name of a model; for the file of this name write ./{given}")
    with DownloadProgress() as progress:
        return get(given, lambda what: _trusted(what, given, args), progress)


def _trusted(what: str, name: str, args: argparse.Namespace) -> bool:
    """Whether the user trusts a file: said so before, or does when asked on a terminal."""
    if name in args.trust:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    terminal.note(f"{what}; nobody else confirms it. Take it? [y/N]")
    with waiting_outside("the terminal"):
        return sys.stdin.readline().strip().lower() in ("y", "yes")
