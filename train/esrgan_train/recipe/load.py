"""Find a recipe by its name or file, read its YAML, and check it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from esrgan_deploy.budget import MIB, read_bytes
from esrgan_deploy.errors import OptionError
from esrgan_train.recipe.errors import explain, nearest
from esrgan_train.recipe.schema import Recipe
from esrgan_train.recipe.yaml_file import apply_setting, read_yaml


def recipe_names() -> list[str]:
    """The names of the recipes in this package: paper/esrgan, basicsr/esrgan and so on."""
    root = resources.files("esrgan_train") / "recipes"
    return sorted(
        f"{family.name}/{file.name.removesuffix('.yaml')}"
        for family in root.iterdir()
        if family.is_dir()
        for file in family.iterdir()
        if file.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a recipe: of this package, by its name, or of a file.

    Raises:
        OptionError: there is no such recipe; the nearest name is given.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        try:
            return read_bytes(Path(name), OptionError, MIB, "`esrgan-train new` writes one").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise OptionError(f"{name}: is no text; give a recipe in YAML, UTF-8") from error
    known = recipe_names()
    if name not in known:
        raise OptionError(f"recipe '{name}' is unknown; {nearest(name, known)} Files end in .yaml")
    return (resources.files("esrgan_train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe, and check that its networks exist and fit its patches. Takes seconds, since that loads torch.

    Args:
        name: of a recipe of this package, or a path that ends in .yaml.
        settings: "a.b=c" each, c in YAML; list items by number: "data.train.0.folder=photos".

    Raises:
        OptionError: no such recipe, no YAML, an unknown key (the nearest is named), or a value out of its range.
    """
    recipe = read_recipe(name, settings)
    from esrgan_train.recipe.networks import (
        check_networks,  # loads torch, which a mistake in the YAML need not wait for
    )

    try:
        check_networks(recipe)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from error
    return recipe


def read_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """`load_recipe` without the check of the networks, and so without torch. The same arguments and errors."""
    return parse_recipe(read_yaml(recipe_text(name), name), name, settings)


def parse_recipe(content: object, label: str, settings: Sequence[str] = ()) -> Recipe:
    """Make a recipe of what a YAML file holds; its networks are not checked.

    Args:
        content: what the YAML holds; the settings are written into it.
        label: the recipe's name in error messages.
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
