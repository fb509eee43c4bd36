"""A training run: what belongs to it, and how it is built from a recipe before the first step."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Adam

from esrgan_deploy.errors import OptionError
from esrgan_export.checkpoint import Checkpoint, load_checkpoint
from esrgan_export.networks import Network, build
from esrgan_train import discriminators
from esrgan_train.data.cache import Pair, open_pairs
from esrgan_train.data.crops import Crops, Source
from esrgan_train.initialise import initialise
from esrgan_train.losses.adversarial import AdversarialOptions
from esrgan_train.losses.vgg import VGGFeatures
from esrgan_train.memory_needs import check_memory_needs
from esrgan_train.recipe import Dataset, Optimiser, PerceptualLoss, Recipe
from esrgan_train.step import SRModel, TrainedNetwork

STATE, RECIPE, LAST, BEST = "state.pt", "recipe.yaml", "last.safetensors", "best.safetensors"
"""Names of the files in the folder of a run, beside `run_folder.LOG`."""


@dataclass
class Run:
    """A run as it is between two steps."""

    recipe: Recipe
    folder: Path
    fabric: Fabric
    model: SRModel
    crops: Crops
    validation: list[Pair]
    parent: Checkpoint | None
    """The checkpoint that the generator started from (`start_from`)."""
    average: Network
    """The moving average of the generator; the generator itself where the recipe has no `ema`."""
    step: int = 0
    """Number of steps taken."""
    best: float | None = None
    """The best score so far, of the metric that `validation.best` names."""
    unlogged: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Losses since the last line of the log: the sum and the number of values, by name."""

    @property
    def generator(self) -> Network:
        """The generator, by its own type."""
        network = self.model.generator.network
        assert isinstance(network, Network), "build_model made it"
        return network


def prepare(recipe: Recipe) -> None:
    """Decode all pictures into the cache, and find what is wrong with data and parent, before processes are started.

    With several processes, each of them would decode, and each would report the same error.

    Raises:
        OptionError: the recipe does not fit its data or its parent.
        ModelError, MediaError: a file that is missing or damaged.
        OutputError: the cache cannot be written.
        MachineError: a step does not fit into memory.
    """
    check_memory_needs(recipe)
    parent = load_checkpoint(recipe.start_from) if recipe.start_from else None
    open_data(recipe, build_generator(recipe, parent).scale)


def set_up(recipe: Recipe, folder: Path, fabric: Fabric) -> Run:
    """Build everything that a run needs, as it is before step 0. Raises what `prepare` raises."""
    model, generator, parent = build_model(recipe, fabric)
    average = copy.deepcopy(generator).requires_grad_(False) if recipe.ema is not None else generator
    crops, validation = open_data(recipe, generator.scale)
    return Run(recipe, folder, fabric, model, crops, validation, parent, average)


def build_model(recipe: Recipe, fabric: Fabric) -> tuple[SRModel, Network, Checkpoint | None]:
    """The networks with their optimisers and losses; the generator by its own type; and its parent's checkpoint."""
    torch.manual_seed(recipe.seed)  # every process begins with the same weights
    parent = load_checkpoint(recipe.start_from) if recipe.start_from else None
    generator = build_generator(recipe, parent)
    if parent is not None:
        fabric.to_device(parent.network)
    model = SRModel(recipe, fabric, add_optimiser(generator, recipe, fabric, recipe.optimiser, recipe.compile))
    if recipe.discriminator is not None:
        network = discriminators.build(recipe.discriminator.network)
        # Not compiled: two losses go back through its graph, and compiled code would compute all gradients both times.
        model.discriminator = add_optimiser(network, recipe, fabric, recipe.discriminator.optimiser, compiled=False)
    model.vgg = [load_vgg(loss, recipe, fabric) if isinstance(loss, PerceptualLoss) else None for loss in recipe.losses]
    if recipe.adversarial is not None:
        model.adversarial = AdversarialOptions(**recipe.adversarial.model_dump(exclude={"loss", "weight"}))
    torch.manual_seed(recipe.seed + 1 + fabric.global_rank)  # random numbers within a step differ between processes
    return model, generator, parent


def build_generator(recipe: Recipe, parent: Checkpoint | None) -> Network:
    """The recipe's network, with the weights of its parent, or initialised as the recipe says.

    Raises:
        OptionError: the parent is a different network.
    """
    network = build(recipe.network)
    if parent is None:
        initialise(network, recipe.init)
        return network
    if parent.network.config() != network.config():
        raise OptionError(
            f"start_from {parent.path}: is {parent.network.config()}, the recipe's network is {network.config()}; "
            "give a checkpoint of that network"
        )
    network.load_state_dict(parent.network.state_dict())
    return network


def load_vgg(loss: PerceptualLoss, recipe: Recipe, fabric: Fabric) -> VGGFeatures:
    """The VGG network of a perceptual loss, on the device of the generator."""
    vgg = VGGFeatures(loss.layers, loss.network, loss.normalisation, loss.weights)
    place(vgg, recipe, fabric)
    return vgg


def add_optimiser(
    network: nn.Module, recipe: Recipe, fabric: Fabric, optimiser: Optimiser, compiled: bool
) -> TrainedNetwork:
    """Move `network` to the device, in training mode, and give it an Adam optimiser."""
    place(network, recipe, fabric)
    network.train().requires_grad_(True)
    adam = Adam(network.parameters(), fused=True, **optimiser.model_dump())
    return TrainedNetwork(network, adam, torch.compile(network) if compiled else network)


def place(network: nn.Module, recipe: Recipe, fabric: Fabric) -> None:
    """Move `network` to the device, in the recipe's memory format."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    fabric.to_device(network)
    network.to(memory_format=layout)  # type: ignore[call-overload]  # PyTorch's types allow this for tensors only


def open_data(recipe: Recipe, scale: int) -> tuple[Crops, list[Pair]]:
    """Crops to train on, and pairs of pictures to validate with.

    Raises:
        OptionError: `data.patch` does not fit a picture.
        MediaError, OutputError: see `open_pairs`.
    """
    data = recipe.data
    folder = recipe.validation.folder  # first, since it is small: its errors show up before minutes of decoding
    validation = open_pairs(resolve(folder), scale, cache=data.cache) if folder else []
    sources = [open_source(dataset, scale, data.cache) for dataset in data.train]
    crops = Crops(
        sources,
        data.patch,
        scale,
        recipe.seed,
        flips=data.flips,
        rotations=data.rotations,
        textured_of=data.textured_of,
    )
    return crops, validation


def open_source(dataset: Dataset, scale: int, cache: Path | None) -> Source:
    """Open one data set of the recipe."""
    folder = resolve(dataset.folder)
    pairs = open_pairs(folder, scale, lr_folder=dataset.lr, shrink=dataset.shrink, cache=cache)
    return Source(folder, pairs, dataset.ratio, dataset.degradation)


def resolve(folder: str) -> Path:
    """The folder that a recipe names; "builtin:photos" stands for the photos that come with the package."""
    return Path(str(resources.files("esrgan_export") / "photos")) if folder == "builtin:photos" else Path(folder)
