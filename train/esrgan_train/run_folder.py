"""The folder of a run: what a run may write and remove there, and nothing of anybody else's."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from esrgan_deploy.errors import OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_train.run import BEST, LAST, RECIPE, STATE

LOG = "log.jsonl"
"""The JSON lines; see `RunLog`."""
SAMPLES = "samples"
"""The folder of SR pictures from validations."""
_MARK = "# The effective recipe of this run of esrgan-train.\n"
"""The first line of `RECIPE`: by it a folder is known as one that a run made."""


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder in which a run would overwrite something that it did not make.

    A folder that a run made, and in which nothing was saved yet, is begun in again.

    Raises:
        OptionError: it holds a run, and `resume` is not set; or files of a run's names that no run made, or weights
            without their state.
    """
    if is_there(folder / STATE):
        if not resume:
            raise OptionError(
                f"{folder}: holds a run already; go on with it by --resume, or name another folder with -o"
            )
        return
    ours = _is_ours(folder / RECIPE)
    weights = [folder / name for name in (LAST, BEST) if is_there(folder / name)]
    if weights and not (ours and resume):
        raise OptionError(f"{weights[0]}: would be overwritten, and its {STATE} is gone; name another folder with -o")
    others = [folder / name for name in (RECIPE, LOG, SAMPLES) if is_there(folder / name)]
    if others and not ours:
        raise OptionError(f"{others[0]}: was made by something else than this run; name another folder with -o")


def begin_folder(folder: Path, recipe_yaml: str) -> None:
    """Make the folder, remove what a killed save left there, and write the effective recipe into it.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; name another with -o") from error
    for name in (STATE, RECIPE, LAST, BEST, LOG):
        remove_abandoned(folder / name)
    with replacing(folder / RECIPE) as partial:
        partial.write_text(_MARK + recipe_yaml, encoding="utf-8")


def remove_abandoned(target: Path) -> None:
    """Remove what `replacing(target)` left behind when its process was killed, and no file of another name."""
    name = re.compile(rf"\.{re.escape(target.stem)}\.[0-9a-f]{{8}}\.part{re.escape(target.suffix)}")
    with contextlib.suppress(OSError):  # what cannot be removed is in nobody's way
        for path in target.parent.iterdir():
            if name.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()


def is_there(path: Path) -> bool:
    """Whether there is anything by this name, be it a link to nothing."""
    return path.is_symlink() or path.exists()


def _is_ours(recipe: Path) -> bool:
    if recipe.is_symlink() or not recipe.is_file():
        return False
    with contextlib.suppress(OSError), recipe.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()
    return False
