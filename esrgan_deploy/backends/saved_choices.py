"""Choices of earlier tunings: one small JSON file for each machine, model and quality.

The file's name is a hash over everything that the choice depends on. The file repeats that in full and is used only if
it agrees, so that a wrong name cannot mislead. A damaged file counts as missing, and so does one in a folder that
others can write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from esrgan_deploy.backends.choice import Choice
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.backends.names import CpuPrecision
from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import write_json
from esrgan_deploy.system.machine import speed_facts
from esrgan_deploy.system.paths import make_user_cache, user_cache

CHOICE_FORMAT = 1
_KEY_DIGITS = 16


def recall(model: Path, quality: CpuPrecision) -> Choice | None:
    """The choice that was saved for this model on this machine; None if there is none."""
    faults = (OSError, OutputError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)
    with contextlib.suppress(*faults):
        folder = user_cache("tuning")
        if not folder.is_dir():  # the usual case, in which the model need not be read for its hash
            return None
        question = _question(model, quality)
        content = json.loads(read_bytes(_path(folder, question), OutputError, TEXT_BYTES))
        if content["question"] == question:
            return Choice.from_json(content["choice"])
    return None


def remember(model: Path, quality: CpuPrecision, choice: Choice) -> Path:
    """Save a choice, and return the file's path.

    Raises:
        OutputError: it cannot be written.
    """
    folder = make_user_cache("tuning")
    question = _question(model, quality)
    path = _path(folder, question)
    write_json(path, {"question": question, "choice": choice.to_json()})
    return path


def _question(model: Path, quality: CpuPrecision) -> dict[str, Any]:
    """Everything that the choice depends on."""
    int8 = int8_path(model)
    question = {
        "format": CHOICE_FORMAT,
        "quality": quality,
        "model": _sha256(model),
        "int8": _sha256(int8) if quality == "int8" and int8.exists() else None,
        **speed_facts(),
    }
    loaded: dict[str, Any] = json.loads(json.dumps(question))  # as it will be read back
    return loaded


def _path(folder: Path, question: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:_KEY_DIGITS]}.json"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
