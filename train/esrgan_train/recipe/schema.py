"""The schema of a recipe: everything that decides what a training run does.

One pydantic model is the parser, the documentation and the check. What is in a section is in `sections`; what has to
fit between sections is checked here. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from esrgan_train.recipe.sections import (
    AdversarialLoss,
    Constant,
    Cosine,
    Count,
    Data,
    Discriminator,
    Loss,
    MultiStep,
    NetworkConfig,
    NotNegative,
    Optimiser,
    PerceptualLoss,
    Positive,
    Repeats,
    Schedule,
    Section,
    Share,
    Validation,
)
from esrgan_train.recipe.yaml_file import write_yaml

UNDECISIVE = (
    *("description", "compared_with", "gpu_hours", "log_every", "save_every", "validation"),
    *("data.workers", "data.cache"),
    "start_from",  # the content of that file decides, and its hash is in the training state
)
"""Keys of a recipe that may change when a run is resumed, since the weights do not depend on them."""


class Recipe(Section):
    """A training run."""

    description: str
    compared_with: str
    """The published table or figure to compare the result with."""
    gpu_hours: NotNegative
    """Expected hours on one data-centre GPU."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    network: NetworkConfig
    init: Literal["official", "small", "interpolating"] = "official"
    """How the generator's weights begin; see `initialise`. Not used with `start_from`."""
    start_from: Path | None = None
    """Checkpoint that the generator begins with; for a GAN, the PSNR network."""
    data: Data
    losses: list[Loss] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Constant()
    discriminator: Discriminator | None = None
    steps: Count
    batch: Repeats
    """Crops per process and backward pass."""
    accumulate: Repeats = 1
    """Backward passes per optimiser step: k passes of b crops equal one pass of k * b."""
    clip_gradient: Positive | None = None
    """Largest norm of the generator's gradient."""
    ema: Share | None = None
    """Decay of the moving average of the weights, which is validated and exported; none: no average."""
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
            raise ValueError("losses hold two adversarial ones; one is allowed, since there is one discriminator")
        if bool(adversarial) != (self.discriminator is not None):
            raise ValueError("an adversarial loss and a discriminator go together; one of them is missing")
        if adversarial and self.validation.best == "psnr":
            raise ValueError("validation.best psnr would pick the most blurred weights of a GAN; take niqe or last")
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
        """Optimiser steps of the discriminator for each one of the generator."""
        return self.discriminator.steps if self.discriminator else 1

    def to_yaml(self) -> str:
        """The effective recipe as YAML: every value, defaults included."""
        return write_yaml(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of everything that the weights depend on: all keys but `UNDECISIVE`.

        `steps` is left out as well, so that a run can be made longer; but not where the learning rate depends on it.
        """
        described = self.model_dump(mode="json")
        for path in UNDECISIVE if isinstance(self.schedule, Cosine) else (*UNDECISIVE, "steps"):
            section, _, key = path.rpartition(".")
            del (described[section] if section else described)[key]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
