"""What a training run is made of, and how it is put together before the first step."""

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
from esrgan_train.recipe import Dataset, Optimiser, PerceptualLoss, Recipe
from esrgan_train.step import Game, Player


@dataclass
class Run:
    """A run between two steps."""

    recipe: Recipe
    folder: Path
    fabric: Fabric
    game: Game
    crops: Crops
    validation: list[Pair]
    parent: Checkpoint | None
    """What the generator started from."""
    average: Network
    """The averaged generator; the generator itself where the recipe averages nothing."""
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Of the metric that `validation.best` names."""
    unlogged: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Losses since the last line of the log: sum and count, by name."""

    @property
    def generator(self) -> Network:
        """The network that is trained."""
        network = self.game.generator.network
        assert isinstance(network, Network), "set_up built it"
        return network


def prepare(recipe: Recipe) -> None:
    """Decode what has not been decoded before, and find what is wrong, while there is one process to say so.

    Raises:
        OptionError: the recipe does not fit its data or its parent.
        ModelError, MediaError: a file that is missing or damaged.
        OutputError: the cache cannot be written.
    """
    parent = load_checkpoint(recipe.start_from) if recipe.start_from else None
    open_data(recipe, build_generator(recipe, parent).scale)


def set_up(recipe: Recipe, folder: Path, fabric: Fabric) -> Run:
    """Build everything a run needs, as it is before step 0. Raises what `prepare` does."""
    game, generator, parent = set_up_game(recipe, fabric)
    average = copy.deepcopy(generator).requires_grad_(False) if recipe.ema is not None else generator
    crops, validation = open_data(recipe, generator.scale)
    return Run(recipe, folder, fabric, game, crops, validation, parent, average)


def set_up_game(recipe: Recipe, fabric: Fabric) -> tuple[Game, Network, Checkpoint | None]:
    """The networks, their optimisers and losses; the generator again, by its type; and what it started from."""
    torch.manual_seed(recipe.seed)  # the same weights in every process
    parent = load_checkpoint(recipe.start_from) if recipe.start_from else None
    generator = build_generator(recipe, parent)
    if parent is not None:
        fabric.to_device(parent.network)
    game = Game(recipe, fabric, make_player(generator, recipe, fabric, recipe.optimiser, recipe.compile))
    if recipe.discriminator is not None:
        adversary = discriminators.build(recipe.discriminator.network)
        # Not compiled: its graph goes backward twice, and compiled each pass would compute the gradients of both.
        game.discriminator = make_player(adversary, recipe, fabric, recipe.discriminator.optimiser, compiled=False)
    game.vgg = [load_vgg(loss, recipe, fabric) if isinstance(loss, PerceptualLoss) else None for loss in recipe.losses]
    if recipe.adversarial is not None:
        game.adversarial = AdversarialOptions(**recipe.adversarial.model_dump(exclude={"loss", "weight"}))
    torch.manual_seed(recipe.seed + 1 + fabric.global_rank)  # what is drawn in a step differs between processes
    return game, generator, parent


def build_generator(recipe: Recipe, parent: Checkpoint | None) -> Network:
    """The recipe's network, with its parent's weights or fresh ones.

    Raises:
        OptionError: the parent is another network.
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
    """The network of a perceptual loss, where the generator is."""
    vgg = VGGFeatures(loss.layers, loss.network, loss.normalisation, loss.weights)
    place(vgg, recipe, fabric)
    return vgg


def make_player(network: nn.Module, recipe: Recipe, fabric: Fabric, optimiser: Optimiser, compiled: bool) -> Player:
    """Put `network` where it is trained, with Adam."""
    place(network, recipe, fabric)
    network.train().requires_grad_(True)
    adam = Adam(network.parameters(), fused=True, **optimiser.model_dump())
    return Player(network, adam, torch.compile(network) if compiled else network)


def place(network: nn.Module, recipe: Recipe, fabric: Fabric) -> None:
    """Move `network` to the device, in the recipe's memory format."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    fabric.to_device(network)
    network.to(memory_format=layout)  # type: ignore[call-overload]  # its stubs know tensors only


def open_data(recipe: Recipe, scale: int) -> tuple[Crops, list[Pair]]:
    """Samples to train on, and pictures to validate with.

    Raises:
        OptionError: `data.patch` does not fit a picture.
        MediaError, OutputError: see `open_pairs`.
    """
    data = recipe.data
    folder = recipe.validation.folder  # first: it is small, and what is wrong with it is said before a long decoding
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
    """One data set of the recipe."""
    folder = resolve(dataset.folder)
    pairs = open_pairs(folder, scale, lr_folder=dataset.lr, shrink=dataset.shrink, cache=cache)
    return Source(folder, pairs, dataset.ratio, dataset.degradation)


def resolve(folder: str) -> Path:
    """A folder of a recipe; "builtin:photos" is the one that comes with the package."""
    return Path(str(resources.files("esrgan_export") / "photos")) if folder == "builtin:photos" else Path(folder)
