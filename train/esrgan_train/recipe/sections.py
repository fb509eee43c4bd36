"""The sections of a recipe. Their docstrings are the documentation of its keys."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from esrgan_train.data.degradation_options import DegradationOptions
from esrgan_train.losses.vgg_layers import layer_names
from esrgan_train.recipe.errors import QUOTES, nearest, shown

MOST_OF_A_NETWORK = 4096
"""Blocks, channels and whatever else the arguments of a network count."""


def _name_and_arguments(value: object) -> object:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("needs a name and arguments, for instance {name: RRDBNet, blocks: 23}")
    for key, argument in value.items():
        if not isinstance(key, str) or not isinstance(argument, int | str):
            name = shown(key).strip(QUOTES)
            raise ValueError(f"{name} is {shown(argument)}; arguments are whole numbers, words, true or false")
        if isinstance(argument, int) and abs(argument) > MOST_OF_A_NETWORK:
            raise ValueError(f"{key} is {shown(argument)}; {MOST_OF_A_NETWORK} is the most")
    return value


# The limits are far above what anybody trains with: products of two whole numbers fit into 64 bits, floats into fp32.
Positive = Annotated[float, Field(gt=0, le=1e38)]
NotNegative = Annotated[float, Field(ge=0, le=1e38)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Side = Annotated[int, Field(ge=1, le=65536)]
"""Pixels."""
Repeats = Annotated[int, Field(ge=1, le=65536)]
"""How often something is done, or held in memory, within one step."""
Share = Annotated[float, Field(ge=0, lt=1)]
NetworkConfig = Annotated[dict[str, int | bool | str], BeforeValidator(_name_and_arguments)]
"""`name`: the class of a network; all other keys: its constructor arguments."""


class Section(BaseModel):
    """Part of a recipe. Unknown keys are errors, and its values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class PixelLoss(Section):
    """A loss on pixels in [0, 1]: a mean over all values of the batch."""

    loss: Literal["l1", "mse", "charbonnier", "total-variation"]
    weight: NotNegative = 1.0


class PerceptualLoss(Section):
    """Distance between SR and HR in the features of a VGG network."""

    loss: Literal["perceptual"]
    weight: NotNegative = 1.0
    network: Literal["vgg16", "vgg19"] = "vgg19"
    layers: dict[str, NotNegative] = Field(default={"conv5_4": 1.0}, min_length=1)
    """Weight of each layer by name: conv5_4 is before its ReLU, relu5_4 after."""
    criterion: Literal["l1", "mse"] = "l1"
    normalisation: Literal["torchvision", "caffe"] = "torchvision"
    weights: Path | None = None
    """A file with torchvision's key names; none: torchvision's published file is downloaded."""

    @model_validator(mode="after")
    def _layers_exist(self) -> Self:
        known = layer_names(self.network)
        for layer in self.layers:
            if layer not in known:
                raise ValueError(f"{self.network} has no layer '{layer}'; {nearest(layer, known)}")
        return self

    @property
    def smallest_patch(self) -> int:
        """Side of a patch in pixels of which the deepest layer still has one pixel."""
        known = layer_names(self.network)
        deepest = max(map(known.index, self.layers))
        pools = [name for name in known[: deepest + 1] if name.startswith("pool")]
        return 1 << len(pools)


class AdversarialLoss(Section):
    """The GAN loss. `weight` is that of the generator's loss; the discriminator minimises the matching loss."""

    loss: Literal["adversarial"]
    weight: NotNegative = 5e-3
    kind: Literal["standard", "least-squares", "wasserstein"] = "standard"
    relativistic: bool = False
    """Compare with the average of the other side (RaGAN), as ESRGAN does."""
    mean_over: Literal["all", "position"] = "all"
    """What the relativistic average is taken over: all logits, or the batch at each position of a map of logits."""
    detach: Literal["none", "opposite"] = "none"
    """opposite: in the discriminator's loss no gradient flows through the average of the other side, as in BasicSR."""
    terms: Literal["sum", "mean"] = "sum"
    """How the two relativistic terms are combined: their sum (the paper), or their mean (the official code)."""


Loss = Annotated[PixelLoss | PerceptualLoss | AdversarialLoss, Field(discriminator="loss")]


class Optimiser(Section):
    """Adam."""

    lr: Positive = 2e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0


class Constant(Section):
    """A learning rate that never changes."""

    schedule: Literal["constant"] = "constant"


class MultiStep(Section):
    """A learning rate that is multiplied by `factor` at each of the steps `at`."""

    schedule: Literal["multistep"]
    at: list[Count] = Field(min_length=1)
    factor: Positive = 0.5

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.at)):
            raise ValueError(f"at {self.at} does not ascend; write each step once, in order")
        return self


class Cosine(Section):
    """A learning rate that falls along half a cosine to `floor`, in each of `periods` equal parts of the run."""

    schedule: Literal["cosine"]
    periods: Count = 1
    floor: NotNegative = 1e-7
    """The lowest learning rate, in the units of `lr`."""
    warmup: int = Field(default=0, ge=0, le=10**12)
    """Steps at the start of the run in which the rate rises linearly."""


Schedule = Annotated[Constant | MultiStep | Cosine, Field(discriminator="schedule")]


class Discriminator(Section):
    """The discriminator of a GAN."""

    network: NetworkConfig
    optimiser: Optimiser = Optimiser(lr=1e-4)
    steps: Repeats = 1
    """Optimiser steps of the discriminator for each one of the generator."""
    gradient_penalty: NotNegative = 0.0
    """Weight of the gradient penalty of WGAN-GP."""
    r1: NotNegative = 0.0
    """Weight (gamma) of the R1 penalty."""


class Dataset(Section):
    """One of the training data sets."""

    folder: str
    """Folder of HR pictures, in any depth; "builtin:photos": five small ones that come with the package."""
    lr: Path | None = None
    """Folder of LR pictures with the same names; none: they are made by MATLAB's bicubic."""
    degradation: DegradationOptions | None = None
    """Make LR crops by Real-ESRGAN's second-order degradation instead."""
    ratio: Positive = 1.0
    """Share of the samples, relative to the other data sets."""
    shrink: Annotated[int, Field(ge=1, le=256)] = 1
    """Make the HR pictures this many times smaller first, which sharpens soft photographs."""

    @model_validator(mode="after")
    def _one_lr(self) -> Self:
        if self.lr is not None and self.degradation is not None:
            raise ValueError("lr and degradation both say where LR comes from; give one of them")
        if self.lr is not None and self.shrink > 1:
            raise ValueError(
                f"shrink {self.shrink} makes HR smaller, so that lr no longer fits; leave lr out, and it is made"
            )
        return self


class Data(Section):
    """What is trained on, and how crops are taken from it."""

    train: list[Dataset] = Field(min_length=1)
    patch: Side
    """Side of an HR crop in pixels, a multiple of the network's scale."""
    flips: bool = True
    rotations: bool = True
    textured_of: Annotated[int, Field(ge=1, le=1024)] = 1
    """Draw this many crops and keep the one with most detail."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads that make crops; 1 is enough unless there is a degradation."""
    cache: Path | None = None
    """Folder for decoded pictures; none: the user's cache folder."""


class Validation(Section):
    """What is measured while the run goes on."""

    folder: str | None = None
    """HR pictures; none: no validation."""
    every: Count = 5000
    """Steps between two validations."""
    metrics: list[Literal["psnr", "ssim", "niqe"]] = ["psnr", "ssim"]
    best: Literal["psnr", "niqe", "last"] = "last"
    """The metric by which `best.safetensors` is chosen; last: it is not written. PSNR is refused for a GAN."""
    tile: int = Field(default=192, ge=64, le=65536)
    """Side of a tile in LR pixels; larger pictures are cut into tiles, which limits the memory."""
    samples: int = Field(default=4, ge=0, le=65536)
    """How many SR pictures are saved at each validation."""
    alphas: list[Annotated[float, Field(ge=0, le=1)]] = []
    """Also measure the interpolation with the PSNR network that training started from, at these alphas."""

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.best != "last" and (self.folder is None or self.best not in self.metrics):
            raise ValueError(f"best is {self.best}, which is not measured; it needs a folder, and to be among metrics")
        return self
