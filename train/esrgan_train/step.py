"""One training step: the generator's, then the discriminator's on the same pictures.

This is `optimize_parameters` of BasicSR's SRModel and SRGANModel in one function, written to be read.
"""

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
"""The value of each loss term by name, multiplied by its weight, in this process."""

PIXEL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "mse": mse, "charbonnier": charbonnier}


@dataclass
class TrainedNetwork:
    """A network that is being trained, with its optimiser."""

    network: nn.Module
    optimiser: Optimizer
    forward: Callable[[Tensor], Tensor]
    """Calls `network`, or its compiled form if the recipe has `compile`."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that the optimiser changes."""
        return list(self.network.parameters())


@dataclass
class SRModel:
    """A super-resolution model in training: its networks with their optimisers, and what its losses need."""

    recipe: Recipe
    fabric: Fabric
    generator: TrainedNetwork
    discriminator: TrainedNetwork | None = None
    """None: the recipe has no adversarial loss."""
    vgg: Sequence[VGGFeatures | None] = ()
    """One entry for each of the recipe's losses: the VGG of a perceptual loss, None for any other loss."""
    adversarial: AdversarialOptions = field(default_factory=AdversarialOptions)


def train_step(model: SRModel, batches: Iterator[Batch], step: int) -> Terms:
    """Accumulate the gradients of `recipe.accumulate` batches, then take one step with each optimiser.

    The pixel and perceptual losses compare SR with the target: HR, or HR sharpened. The discriminator's real pictures
    are HR as it is, as in Real-ESRGAN (`gan_gt_usm: False`).

    For each batch the generator runs once, and the discriminator once on the real (HR) and once on the fake (SR)
    pictures; the losses of both networks use these results. BasicSR freezes the discriminator while the generator's
    gradients are computed. Here `backward` is told for which tensors gradients are wanted instead, so that the
    generator's loss leaves no gradient in the discriminator, and the other way round. The generator's loss goes back
    through the discriminator to the SR pictures first, and from there through the generator. Both losses see the SR
    pictures from before the generator's step, as in BasicSR.

    With `discriminator.steps` n, only every n-th step trains the generator.

    Args:
        model: its weights, optimisers and buffers are changed.
        batches: endless; LR, HR and target as uint8 (N, 3, H, W).
        step: counted from 0.

    Returns:
        The value of each loss term.
    """
    recipe, discriminator = model.recipe, model.discriminator
    trains_generator = discriminator is None or (step + 1) % recipe.discriminator_steps == 0
    terms: Terms = {}
    for _ in range(recipe.accumulate):
        batch = next(batches)
        lr, hr = _to_unit(model, batch.lr), _to_unit(model, batch.hr)
        target = hr if batch.target is batch.hr else _to_unit(model, batch.target)
        with torch.set_grad_enabled(trains_generator), model.fabric.autocast():
            sr = model.generator.forward(lr).float()
        if discriminator is None:
            _backward(model, dict(_generator_terms(model, sr, target, None, None)), model.generator.parameters, terms)
            continue
        # Cut the graph at the SR pictures: two losses go back through the discriminator, one through the generator.
        seen = sr.detach().requires_grad_(trains_generator)
        with model.fabric.autocast():
            real, fake = discriminator.forward(hr), discriminator.forward(seen)
        if trains_generator:
            _backward(model, dict(_generator_terms(model, seen, target, fake, real)), [seen], terms, keep_graph=True)
            torch.autograd.backward(sr, seen.grad, inputs=model.generator.parameters)
        losses = dict(_discriminator_terms(model, discriminator, seen, hr, fake, real))
        _backward(model, losses, discriminator.parameters, terms)
    trained = (model.generator if trains_generator else None, discriminator)
    _optimise(model, [network for network in trained if network is not None], terms)
    return terms


def _to_unit(model: SRModel, pictures: Tensor) -> Tensor:
    """uint8 on the host -> fp32 in [0, 1] on the device, in the memory format of the networks."""
    layout = torch.channels_last if model.recipe.channels_last else torch.contiguous_format
    on_device: Tensor = model.fabric.to_device(pictures)
    return on_device.float().div_(255).contiguous(memory_format=layout)


def _generator_terms(
    model: SRModel, sr: Tensor, target: Tensor, fake: Tensor | None, real: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Name and weighted value of each loss of the recipe. Two losses of one kind are told apart by their number."""
    for index, (loss, vgg) in enumerate(zip(model.recipe.losses, model.vgg, strict=True)):
        yield _name(model.recipe.losses, index), loss.weight * _generator_loss(model, loss, vgg, sr, target, fake, real)


def _name(losses: Sequence[Loss], index: int) -> str:
    kinds = [loss.loss for loss in losses]
    return kinds[index] if kinds.count(kinds[index]) == 1 else f"{kinds[index]}-{index + 1}"


def _generator_loss(
    model: SRModel,
    loss: Loss,
    vgg: VGGFeatures | None,
    sr: Tensor,
    target: Tensor,
    fake: Tensor | None,
    real: Tensor | None,
) -> Tensor:
    if isinstance(loss, AdversarialLoss):
        assert fake is not None, "the recipe has no adversarial loss without a discriminator"
        return generator_loss(fake, real, model.adversarial)
    if isinstance(loss, PerceptualLoss):
        assert vgg is not None, "build_model loads a VGG for each perceptual loss"
        return perceptual(*features_of(vgg, sr, target), loss.layers, loss.criterion)
    return total_variation(sr) if loss.loss == "total-variation" else PIXEL[loss.loss](sr, target)


def _discriminator_terms(
    model: SRModel, discriminator: TrainedNetwork, sr: Tensor, hr: Tensor, fake: Tensor, real: Tensor
) -> Iterator[tuple[str, Tensor]]:
    section = model.recipe.discriminator
    assert section is not None, "the model has a discriminator, so the recipe has one"
    yield "discriminator", discriminator_loss(real, fake, model.adversarial)
    if section.gradient_penalty:
        penalty = gradient_penalty(discriminator.network, hr, sr.detach())
        yield "gradient-penalty", section.gradient_penalty * penalty
    if section.r1:
        yield "r1", section.r1 * r1(discriminator.network, hr)


def _backward(
    model: SRModel, losses: Mapping[str, Tensor], inputs: Sequence[Tensor], terms: Terms, keep_graph: bool = False
) -> None:
    """Add the gradients of the summed `losses` to `inputs`, and the losses to `terms`.

    Both are divided by `recipe.accumulate`, so that the sum over all accumulated batches is their mean.
    """
    passes = model.recipe.accumulate
    total = torch.stack(list(losses.values())).sum() / passes
    model.fabric.backward(total, inputs=inputs, retain_graph=keep_graph)
    values = torch.stack([loss.detach() for loss in losses.values()]).tolist()  # waits for the device once
    for name, value in zip(losses, values, strict=True):
        terms[name] = terms.get(name, 0.0) + value / passes


def _optimise(model: SRModel, networks: Sequence[TrainedNetwork], terms: Terms) -> None:
    """Average the gradients over all processes, clip the generator's, and take a step with each optimiser.

    fp16 has one loss scale for all networks. It is updated after the last of them, since all gradients were computed
    with the old one. A network whose gradients overflowed is left as it is (`GradScaler.step`).
    """
    scaler: GradScaler | None = getattr(model.fabric.strategy.precision, "scaler", None)
    limit = model.recipe.clip_gradient
    for network in networks:
        average_gradients(model.fabric, network.parameters)
        if limit is not None and network is model.generator:
            if scaler is not None:
                scaler.unscale_(network.optimiser)
            terms["gradient-norm"] = float(nn.utils.clip_grad_norm_(network.parameters, limit))
        if scaler is None:
            network.optimiser.step()
        else:
            scaler.step(network.optimiser)
        network.optimiser.zero_grad(set_to_none=True)
    if scaler is not None:
        scaler.update()
