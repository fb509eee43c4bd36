"""What a training state has to hold. All of it is checked before any of it is used.

The kinds of the entries are checked while the file is read (`parse`), names and shapes of tensors by comparison with
what they are going to replace (`check_tensors`, `check_adam`, `check_random`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from esrgan_deploy.budget import opened
from esrgan_deploy.errors import ModelError
from esrgan_export.torch_file import load_torch_file

_MOST_STEPS = 10**15
"""Crops are numbered from the steps, in 64 bits."""


def _is_number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("is not a number")
    return value


Steps = Annotated[int, Field(ge=0, le=_MOST_STEPS)]
Score = Annotated[float, AfterValidator(_is_number)]
Tensors = dict[str, Tensor]


class Entries(BaseModel):
    """Part of a state; entries that a later version added are left out."""

    model_config = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True)


class _Moments(Entries):
    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class AdamEntries(Entries):
    """What Adam knows of each parameter, by its number; of one that was never moved it knows nothing.

    Its settings, which are saved too, are the recipe's.
    """

    state: dict[int, _Moments]


class RandomEntries(Entries):
    """See `state.random_state`."""

    cpu: Tensor
    cuda: Tensor | None = None


class ProcessEntries(Entries):
    """What each process has for itself."""

    random: RandomEntries
    buffers: Tensors


class TrainingState(Entries):
    """The content of state.pt."""

    digest: str
    recipe: str
    parent_sha256: str | None
    step: Steps
    best: Score | None
    unlogged: dict[str, tuple[float, Steps]] = {}
    generator: Tensors
    optimiser: AdamEntries
    average: Tensors
    precision: dict[str, float | int]
    discriminator: Tensors | None = None
    discriminator_optimiser: AdamEntries | None = None
    processes: list[ProcessEntries] = Field(min_length=1)


Known = TypeVar("Known", bound=Entries)


def read_entries(path: Path, remedy: str) -> dict[Any, Any]:
    """The entries of a state, of any kind; nothing in the file is executed.

    Raises:
        ModelError: it is no regular file, damaged, or holds no entries; `remedy` ends the message.
        MachineError: it does not fit into memory.
    """
    with opened(path, ModelError, remedy) as file:
        content = load_torch_file(file, path, remedy, old=False)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is no training state; {remedy}")
    return content


def parse(kind: type[Known], content: Mapping[Any, Any], path: Path, remedy: str) -> Known:
    """`content` with every entry of its kind.

    Raises:
        ModelError: an entry is missing or of another kind; the first one is named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        entry = ".".join(map(str, problem["loc"]))
        what = "is missing" if problem["type"] == "missing" else f"is damaged: {problem['msg'].lower()}"
        raise ModelError(f"{path}: its entry '{entry}' {what}; {remedy}") from error


class Comparison:
    """Compares tensors of the state at `path` with those that they are going to replace.

    Raises, in each of its methods:
        ModelError: the first entry that does not fit is named; `remedy` ends the message.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self._path = path
        self._remedy = remedy

    def refuse(self, entry: str, what: str) -> ModelError:
        """The error for one entry."""
        return ModelError(f"{self._path}: its entry '{entry}' {what}; {self._remedy}")

    def tensors(self, entry: str, saved: Tensors | None, own: Mapping[str, Tensor]) -> None:
        """The same names, shapes and types, and only finite numbers."""
        if saved is None:
            raise self.refuse(entry, "is missing")
        for name in [*own, *saved]:
            if name not in saved:
                raise self.refuse(f"{entry}.{name}", "is missing")
            if name not in own:
                raise self.refuse(f"{entry}.{name}", "belongs to another network")
            self._tensor(f"{entry}.{name}", saved[name], own[name])

    def adam(self, entry: str, saved: AdamEntries | None, optimiser: Optimizer) -> None:
        """No more parameters than `optimiser` has, and moments of their shapes."""
        if saved is None:
            raise self.refuse(entry, "is missing")
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for number, moments in saved.state.items():
            place = f"{entry}.state.{number}"
            if not 0 <= number < len(parameters):
                raise self.refuse(place, f"belongs to another network: this one has {len(parameters)} parameters")
            self._tensor(f"{place}.step", moments.step, torch.zeros(()))
            for name in ("exp_avg", "exp_avg_sq"):
                self._tensor(f"{place}.{name}", getattr(moments, name), parameters[number])
            if moments.step < 0 or (moments.exp_avg_sq < 0).any():
                raise self.refuse(place, "holds a negative number, which no step leaves there")

    def numbers(self, entry: str, saved: Mapping[str, float], own: Mapping[str, float]) -> None:
        """The same names, and finite numbers from 0."""
        for name in [*own, *saved]:
            if name not in saved or name not in own:
                raise self.refuse(f"{entry}.{name}", "is missing" if name in own else "belongs to another precision")
            if not 0 <= saved[name] < math.inf:  # false for NaN too
                raise self.refuse(f"{entry}.{name}", f"is {saved[name]}, which is no number for it")

    def random(self, entry: str, saved: RandomEntries, device: torch.device) -> None:
        """States that the random generators of this machine take."""
        states = {"cpu": (saved.cpu, torch.device("cpu"))}
        if device.type == "cuda" and saved.cuda is not None:
            states["cuda"] = (saved.cuda, device)
        for name, (state, where) in states.items():
            try:
                torch.Generator(where).set_state(state)
            except (RuntimeError, TypeError) as error:
                raise self.refuse(f"{entry}.{name}", "is no state of a random generator") from error

    def _tensor(self, entry: str, saved: Tensor, own: Tensor) -> None:
        if saved.shape != own.shape or saved.dtype != own.dtype:
            raise self.refuse(entry, f"is {_described(saved)}, not {_described(own)}")
        if not saved.isfinite().all():
            raise self.refuse(entry, "holds NaN or infinity")


def _described(tensor: Tensor) -> str:
    sides = "x".join(map(str, tensor.shape)) or "one number"
    return f"{sides} of {str(tensor.dtype).removeprefix('torch.')}"
