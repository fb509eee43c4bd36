"""Scores of Ma et al. 2017 ("Learning a no-reference quality metric for single-image super-resolution").

Their model was released for MATLAB, and no Python package contains it. So the user gives the scores: a function that
scores a picture, or a CSV file of scores that were computed elsewhere, for instance with that release.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.errors import MediaError, OptionError
from esrgan_export.image_types import Uint8Image

COLUMNS = ["method", "picture", "ma"]


class MaScorer(Protocol):
    """Gives the Ma score, 0 (worst) to 10, of one picture of one method."""

    def __call__(self, method: str, picture: str, sr: Uint8Image) -> float:
        """Score `sr`, uint8 RGB (H, W, 3), of which 4 pixels were shaved on each side."""


def open_ma_scorer(spec: str) -> MaScorer:
    """Open the scorer that `spec` names.

    Args:
        spec: "module:function" of a function that takes uint8 RGB (H, W, 3) and returns a float; or a CSV file with the
            columns method, picture (stem of the HR file) and ma.

    Raises:
        MediaError: the file cannot be read, or is not such a table.
        OptionError: there is no such function.
    """
    if spec.lower().endswith(".csv"):
        return _from_table(_read_table(Path(spec)), spec)
    return _from_function(_import_function(spec), spec)


def _from_function(function: Callable[[Uint8Image], float], spec: str) -> MaScorer:
    def scorer(method: str, picture: str, sr: Uint8Image) -> float:
        try:
            value = float(function(sr))
        except Exception as error:  # it is the user's
            raise MediaError(f"{spec} failed: {error!r}") from error
        if not math.isfinite(value):
            raise MediaError(f"{spec} returned {value} instead of a score")
        return value

    return scorer


def _from_table(table: Mapping[tuple[str, str], float], spec: str) -> MaScorer:
    def scorer(method: str, picture: str, sr: Uint8Image) -> float:
        if (method, picture) not in table:
            raise MediaError(f"{spec} has no row '{method},{picture},...'")
        return table[method, picture]

    return scorer


def _import_function(spec: str) -> Callable[[Uint8Image], float]:
    module, _, name = spec.partition(":")
    if not (module and name):
        raise OptionError(f"--ma '{spec}' is neither MODULE:FUNCTION nor a .csv file")
    sys.path.insert(0, str(Path.cwd()))  # Python looks for modules beside the command instead
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the module does while it is loaded, and names that are none
        raise OptionError(f"--ma '{spec}': {module} cannot be imported: {error!r}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise OptionError(f"--ma '{spec}': {module} has no function '{name}'")
    function: Callable[[Uint8Image], float] = found
    return function


def _read_table(path: Path) -> dict[tuple[str, str], float]:
    try:
        text = read_bytes(path, MediaError, TEXT_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{path}: is no CSV file ({error})") from error
    table = {}
    for line, row in enumerate(rows, 2):
        try:
            method, picture, value = row["method"], row["picture"], float(row["ma"])
        except (KeyError, TypeError, ValueError):
            raise MediaError(f"{path}: line {line} is not {','.join(COLUMNS)} under a header of these names") from None
        if not 0 <= value <= 10:
            raise MediaError(f"{path}: line {line}: Ma scores go from 0 to 10, this is {value:g}")
        table[method, picture] = value
    return table
