"""Check that the networks of a recipe exist and fit each other and the patches, before any picture is opened."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export import networks
from esrgan_train import discriminators
from esrgan_train.initialise import check_init
from esrgan_train.recipe.errors import nearest
from esrgan_train.recipe.schema import Recipe
from esrgan_train.recipe.sections import Discriminator


def check_networks(recipe: Recipe) -> None:
    """Build both networks to see whether that works; they are not kept.

    Raises:
        OptionError: an unknown network or argument (the nearest known one is named), a patch that does not fit, or an
            init, loss or penalty that does not work with the network.
    """
    with torch.device("meta"):
        generator = _build_generator(recipe.network)
    check_init(generator, recipe.init)
    if recipe.data.patch % (generator.scale * generator.multiple_of):
        factor = f" times {generator.multiple_of}, by which LR must be divisible" if generator.multiple_of > 1 else ""
        raise OptionError(
            f"data.patch {recipe.data.patch} is no multiple of the network's scale {generator.scale}{factor}"
        )
    if recipe.discriminator is not None:
        with torch.device("meta"):
            discriminator = _build_discriminator(recipe.discriminator.network)
        _check_patch(discriminator, recipe.data.patch)
        _check_penalties(
            discriminator, recipe.discriminator, recipe.adversarial is not None and recipe.adversarial.kind
        )


def network_scale(recipe: Recipe) -> int:
    """HR pixels per LR pixel."""
    with torch.device("meta"):
        return _build_generator(recipe.network).scale


def _build_generator(config: Mapping[str, int | bool | str]) -> networks.Network:
    _check_names("network", config, networks.NETWORKS)
    try:
        return networks.build(config)
    except (ModelError, OptionError) as error:
        raise OptionError(f"network: {error}") from error


def _build_discriminator(config: Mapping[str, int | bool | str]) -> nn.Module:
    _check_names("discriminator.network", config, discriminators.DISCRIMINATORS)
    try:
        return discriminators.build(config)
    except OptionError as error:
        raise OptionError(f"discriminator.network: {error}") from error


def _check_names(section: str, config: Mapping[str, int | bool | str], classes: Mapping[str, type[nn.Module]]) -> None:
    name = str(config["name"])
    if name not in classes:
        raise OptionError(f"{section}: '{name}' is unknown; {nearest(name, classes)}")
    known = inspect.signature(classes[name]).parameters
    for key in config:
        if key not in known and key != "name":
            raise OptionError(f"{section}: {name} has no '{key}'; {nearest(key, known)}")


def _check_patch(discriminator: nn.Module, patch: int) -> None:
    """Run the discriminator on one black picture. In evaluation mode, batch normalisation needs no second one."""
    try:
        with torch.inference_mode():
            discriminator.eval()(torch.zeros(1, 3, patch, patch, device="meta"))
    except OptionError as error:
        raise OptionError(f"discriminator: data.patch {patch} does not fit: {error}") from error


def _check_penalties(discriminator: nn.Module, section: Discriminator, kind: str | bool) -> None:
    penalised = section.gradient_penalty or section.r1
    if penalised and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in discriminator.modules()):
        raise OptionError(
            f"discriminator: gradient_penalty and r1 need the gradient of each picture alone, and the batch "
            f"normalisation of {type(discriminator).__name__} mixes the pictures of a batch; take UNetDiscriminator"
        )
    bounded = section.gradient_penalty or any(parametrize.is_parametrized(layer) for layer in discriminator.modules())
    if kind == "wasserstein" and not bounded:
        raise OptionError(
            "discriminator: with wasserstein its output grows without end; set discriminator.gradient_penalty (10 in "
            "the paper), or take UNetDiscriminator, whose spectral norm limits it"
        )
