"""A recipe: everything that decides what a training run does, as typed YAML.

One model is the parser, the documentation and the schema; an unknown key is refused with the nearest known one. The
recipes of this package are in `recipes/`, by the names that `recipe_names` lists. `load_recipe` alone loads torch: it
tries whether the networks exist and fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from esrgan_deploy.errors import OptionError
from esrgan_train.recipe.errors import explain, nearest
from esrgan_train.recipe.sections import (
    AdversarialLoss,
    Constant,
    Cosine,
    Count,
    Data,
    Dataset,
    Discriminator,
    Loss,
    MultiStep,
    NetworkConfig,
    NotNegative,
    Optimiser,
    PerceptualLoss,
    PixelLoss,
    Positive,
    Schedule,
    Section,
    Share,
    Validation,
)
from esrgan_train.recipe.yaml_file import apply_setting, read_yaml, write_yaml

__all__ = [
    "UNDECISIVE",
    "AdversarialLoss",
    "Constant",
    "Cosine",
    "Data",
    "Dataset",
    "Discriminator",
    "Loss",
    "MultiStep",
    "Optimiser",
    "PerceptualLoss",
    "PixelLoss",
    "Recipe",
    "Schedule",
    "Validation",
    "load_recipe",
    "parse_recipe",
    "read_recipe",
    "recipe_names",
    "recipe_text",
]

UNDECISIVE = (
    *("description", "compared_with", "gpu_hours", "log_every", "save_every", "validation"),
    *("data.workers", "data.cache"),
    "start_from",  # the parent's content decides, and has a hash of its own in the training state
)
"""Keys of a recipe that may change when a run goes on: its weights do not depend on them."""


class Recipe(Section):
    """A training run."""

    description: str
    compared_with: str
    """The published table or figure that the result is to be held against."""
    gpu_hours: NotNegative
    """Expected cost on one data-centre GPU."""
    seed: int = Field(default=0, ge=0)
    network: NetworkConfig
    init: Literal["official", "small", "interpolating"] = "official"
    """See `initialise`."""
    start_from: Path | None = None
    """Checkpoint of the generator to begin with: the PSNR network, for a GAN."""
    data: Data
    losses: list[Loss] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Constant()
    discriminator: Discriminator | None = None
    steps: Count
    batch: Count
    """Samples per process and backward pass."""
    accumulate: Count = 1
    """Backward passes per optimiser step: k passes of b samples equal one of k * b."""
    clip_gradient: Positive | None = None
    """Largest norm of the generator's gradient."""
    ema: Share | None = None
    """Decay of the averaged weights, which are what is validated and exported."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True
    compile: bool = False
    log_every: Count = 100
    save_every: Count = 1000
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        adversarial = [loss for loss in self.losses if loss.loss == "adversarial"]
        if len(adversarial) > 1:
            raise ValueError("losses hold two adversarial ones; there is one discriminator")
        if bool(adversarial) != (self.discriminator is not None):
            raise ValueError("an adversarial loss and a discriminator go together; one of them is missing")
        if adversarial and self.validation.best == "psnr":
            raise ValueError("validation.best psnr picks the blurred ones of a GAN; take niqe or last")
        for loss in self.losses:
            if isinstance(loss, PerceptualLoss) and self.data.patch < loss.smallest_patch:
                raise ValueError(
                    f"data.patch {self.data.patch} is too small for the perceptual loss: {', '.join(loss.layers)} need "
                    f"{loss.smallest_patch} pixels"
                )
        if self.validation.alphas and self.start_from is None:
            raise ValueError("validation.alphas blends with start_from, which is not set")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        schedule = self.schedule
        remedy = "shorten it, or --set 'schedule={schedule: constant}'"
        if isinstance(schedule, MultiStep) and schedule.at[-1] >= self.steps:
            raise ValueError(f"schedule.at {schedule.at[-1]} is beyond the {self.steps} steps of the run; {remedy}")
        if not isinstance(schedule, Cosine):
            return self
        if schedule.warmup * schedule.periods >= self.steps:
            raise ValueError(
                f"schedule.warmup {schedule.warmup} is as long as a period of {self.steps / schedule.periods:g} steps; "
                f"{remedy}"
            )
        optimisers = [self.optimiser, *([self.discriminator.optimiser] if self.discriminator else [])]
        if schedule.floor > min(optimiser.lr for optimiser in optimisers):
            raise ValueError(f"schedule.floor {schedule.floor:g} is above lr; make it smaller")
        return self

    @property
    def adversarial(self) -> AdversarialLoss | None:
        """The adversarial loss, if there is one."""
        return next((loss for loss in self.losses if isinstance(loss, AdversarialLoss)), None)

    @property
    def discriminator_steps(self) -> int:
        """Of the discriminator for each of the generator."""
        return self.discriminator.steps if self.discriminator else 1

    def to_yaml(self) -> str:
        """The effective recipe: every value, defaults included."""
        return write_yaml(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of what decides the weights of a step: all but `UNDECISIVE`.

        The length of the run is part of it only where the learning rate depends on it: other runs can be made longer.
        """
        described = self.model_dump(mode="json")
        for path in UNDECISIVE if isinstance(self.schedule, Cosine) else (*UNDECISIVE, "steps"):
            section, _, key = path.rpartition(".")
            del (described[section] if section else described)[key]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def recipe_names() -> list[str]:
    """The recipes of this package: paper/esrgan, basicsr/esrgan and so on."""
    root = resources.files("esrgan_train") / "recipes"
    return sorted(
        f"{family.name}/{file.name.removesuffix('.yaml')}"
        for family in root.iterdir()
        if family.is_dir()
        for file in family.iterdir()
        if file.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a recipe: one of this package by its name, or a file.

    Raises:
        OptionError: there is no such recipe; the nearest name is given.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise OptionError(f"{name}: cannot be read: {error.strerror}; `esrgan-train new` writes one") from error
        except UnicodeDecodeError as error:
            raise OptionError(f"{name}: is no text; give a recipe in YAML, UTF-8") from error
    known = recipe_names()
    if name not in known:
        raise OptionError(f"recipe '{name}' is unknown; {nearest(name, known)} Files end in .yaml")
    return (resources.files("esrgan_train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe, and see whether its networks exist and fit its patches.

    Args:
        name: of a recipe of this package, or a path that ends in .yaml.
        settings: "a.b=c" each, c in YAML; list items by number: "data.train.0.folder=photos".

    Raises:
        OptionError: no such recipe, no YAML, an unknown key (the nearest is named), or a value out of its range.
    """
    from esrgan_train.recipe.networks import check_networks  # torch

    recipe = read_recipe(name, settings)
    try:
        check_networks(recipe)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from error
    return recipe


def read_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The same without a look at the networks, which takes torch and seconds. Arguments and errors as above."""
    return parse_recipe(read_yaml(recipe_text(name), name), name, settings)


def parse_recipe(content: object, label: str, settings: Sequence[str] = ()) -> Recipe:
    """`content`, with settings applied to it, as a recipe; its networks are not looked at.

    Args:
        content: what the YAML holds; changed by the settings.
        label: what errors call it.
        settings: see `load_recipe`.

    Raises:
        OptionError: see `load_recipe`.
    """
    if not isinstance(content, dict):
        raise OptionError(f"{label}: holds no recipe; `esrgan-train new NAME` writes one to begin with")
    for setting in settings:
        apply_setting(setting, content)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise OptionError(f"{label}: {explain(error, Recipe)}") from error
