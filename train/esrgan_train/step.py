"""One training step: the generator's, and the discriminator's on the same pictures. This is the GAN, to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from esrgan_train.data.loader import Batch
from esrgan_train.losses.adversarial import AdversarialOptions, discriminator_loss, generator_loss
from esrgan_train.losses.charbonnier import charbonnier
from esrgan_train.losses.l1 import l1
from esrgan_train.losses.mse import mse
from esrgan_train.losses.perceptual import features_of, perceptual
from esrgan_train.losses.r1 import r1
from esrgan_train.losses.total_variation import total_variation
from esrgan_train.losses.vgg import VGGFeatures
from esrgan_train.losses.wasserstein import gradient_penalty
from esrgan_train.processes import average_gradients
from esrgan_train.recipe import AdversarialLoss, Loss, PerceptualLoss, Recipe

Terms = dict[str, float]
"""What each part of the losses was, by name, weighted as it was minimised; in this process."""

PIXEL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "mse": mse, "charbonnier": charbonnier}


@dataclass
class Player:
    """A network with its optimiser."""

    network: nn.Module
    optimiser: Optimizer
    forward: Callable[[Tensor], Tensor]
    """The network, compiled if the recipe says so."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes."""
        return list(self.network.parameters())


@dataclass
class Game:
    """Everything that a step needs."""

    recipe: Recipe
    fabric: Fabric
    generator: Player
    discriminator: Player | None = None
    vgg: Sequence[VGGFeatures | None] = ()
    """For each of the recipe's losses, its features; None where it needs none."""
    adversarial: AdversarialOptions = field(default_factory=AdversarialOptions)


def train_step(game: Game, batches: Iterator[Batch], step: int) -> Terms:
    """Take `recipe.accumulate` batches, then one step of each optimiser.

    Each pass goes once through the generator and once through the discriminator for real and for fake pictures; both
    losses share these two. `backward` is told whose gradients it is for, which is what freezing the other network
    would do: none of the discriminator's come from the generator's loss, none of the generator's from the other's.
    The generator's loss goes backward to the fake pictures first, through the discriminator, and from there through
    the generator. The fake pictures are those from before the generator's step, as in the official code.

    With a discriminator of n steps, only every n-th step moves the generator.

    Args:
        game: is changed.
        batches: uint8 pairs without end.
        step: counted from 0.
    """
    recipe, discriminator = game.recipe, game.discriminator
    moves_generator = discriminator is None or (step + 1) % recipe.discriminator_steps == 0
    terms: Terms = {}
    for _ in range(recipe.accumulate):
        lr, hr = (_to_unit(game, pictures) for pictures in next(batches))
        with torch.set_grad_enabled(moves_generator), game.fabric.autocast():
            sr = game.generator.forward(lr).float()
        if discriminator is None:
            _backward(game, dict(_generator_terms(game, sr, hr, None, None)), game.generator.parameters, terms)
            continue
        seen = sr.detach().requires_grad_(moves_generator)  # cuts the graph: only the discriminator's is needed twice
        with game.fabric.autocast():
            real, fake = discriminator.forward(hr), discriminator.forward(seen)
        if moves_generator:
            _backward(game, dict(_generator_terms(game, seen, hr, fake, real)), [seen], terms, keep_graph=True)
            torch.autograd.backward(sr, seen.grad, inputs=game.generator.parameters)
        losses = dict(_discriminator_terms(game, discriminator, seen, hr, fake, real))
        _backward(game, losses, discriminator.parameters, terms)
    movers = (game.generator if moves_generator else None, discriminator)
    _move(game, [player for player in movers if player is not None], terms)
    return terms


def _to_unit(game: Game, pictures: Tensor) -> Tensor:
    """uint8 on the host -> fp32 in [0, 1] on the device, in the memory format of the networks."""
    layout = torch.channels_last if game.recipe.channels_last else torch.contiguous_format
    on_device: Tensor = game.fabric.to_device(pictures)
    return on_device.float().div_(255).contiguous(memory_format=layout)


def _generator_terms(
    game: Game, sr: Tensor, hr: Tensor, fake: Tensor | None, real: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Each loss of the recipe, weighted; two of one kind have two names."""
    for index, (loss, vgg) in enumerate(zip(game.recipe.losses, game.vgg, strict=True)):
        yield _name(game.recipe.losses, index), loss.weight * _generator_loss(game, loss, vgg, sr, hr, fake, real)


def _name(losses: Sequence[Loss], index: int) -> str:
    kinds = [loss.loss for loss in losses]
    return kinds[index] if kinds.count(kinds[index]) == 1 else f"{kinds[index]}-{index + 1}"


def _generator_loss(
    game: Game, loss: Loss, vgg: VGGFeatures | None, sr: Tensor, hr: Tensor, fake: Tensor | None, real: Tensor | None
) -> Tensor:
    if isinstance(loss, AdversarialLoss):
        assert fake is not None, "the recipe has no adversarial loss without a discriminator"
        return generator_loss(fake, real, game.adversarial)
    if isinstance(loss, PerceptualLoss):
        assert vgg is not None, "it was loaded with the recipe"
        return perceptual(*features_of(vgg, sr, hr), loss.layers, loss.criterion)
    return total_variation(sr) if loss.loss == "total-variation" else PIXEL[loss.loss](sr, hr)


def _discriminator_terms(
    game: Game, discriminator: Player, sr: Tensor, hr: Tensor, fake: Tensor, real: Tensor
) -> Iterator[tuple[str, Tensor]]:
    section = game.recipe.discriminator
    assert section is not None, "there is a discriminator"
    yield "discriminator", discriminator_loss(real, fake, game.adversarial)
    if section.gradient_penalty:
        penalty = gradient_penalty(discriminator.network, hr, sr.detach())
        yield "gradient-penalty", section.gradient_penalty * penalty
    if section.r1:
        yield "r1", section.r1 * r1(discriminator.network, hr)


def _backward(
    game: Game, losses: Mapping[str, Tensor], inputs: Sequence[Tensor], terms: Terms, keep_graph: bool = False
) -> None:
    """Add to `inputs` the gradients of the mean over all accumulated passes, and the losses to `terms`."""
    passes = game.recipe.accumulate
    total = torch.stack(list(losses.values())).sum() / passes
    game.fabric.backward(total, inputs=inputs, retain_graph=keep_graph)
    values = torch.stack([loss.detach() for loss in losses.values()]).tolist()  # one wait for the device, not many
    for name, value in zip(losses, values, strict=True):
        terms[name] = terms.get(name, 0.0) + value / passes


def _move(game: Game, players: Sequence[Player], terms: Terms) -> None:
    """Average the gradients of all processes, clip the generator's, and let the optimisers step.

    fp16 needs its loss scale, one for all players: it changes when all of them have stepped, since all gradients were
    computed with the old one. A player whose gradients overflowed does not step.
    """
    scaler: GradScaler | None = getattr(game.fabric.strategy.precision, "scaler", None)
    limit = game.recipe.clip_gradient
    for player in players:
        average_gradients(game.fabric, player.parameters)
        if limit is not None and player is game.generator:
            if scaler is not None:
                scaler.unscale_(player.optimiser)
            terms["gradient-norm"] = float(nn.utils.clip_grad_norm_(player.parameters, limit))
        if scaler is None:
            player.optimiser.step()
        else:
            scaler.step(player.optimiser)
        player.optimiser.zero_grad(set_to_none=True)
    if scaler is not None:
        scaler.update()
