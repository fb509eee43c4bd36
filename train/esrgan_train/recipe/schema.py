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
    Schedule,
    Section,
    Share,
    Validation,
)
from esrgan_train.recipe.yaml_file import write_yaml

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
