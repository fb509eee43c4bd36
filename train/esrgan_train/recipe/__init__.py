"""Recipes: everything that decides a training run, as typed YAML.

schema.py      what a recipe holds: `Recipe`, made of the `sections.py`
load.py        find a recipe by name or file, read it, check it
networks.py    do the networks that a recipe names exist, and do they fit; the only file here that needs torch
errors.py      one line that says what is wrong with a recipe, and what was probably meant
yaml_file.py   YAML without surprises, and `--set`

The recipes themselves are in `esrgan_train/recipes/`.
"""

from __future__ import annotations

from esrgan_train.recipe.load import load_recipe, parse_recipe, read_recipe, recipe_names, recipe_text
from esrgan_train.recipe.schema import UNDECISIVE, Recipe
from esrgan_train.recipe.sections import (
    AdversarialLoss,
    Constant,
    Cosine,
    Data,
    Dataset,
    Discriminator,
    Loss,
    MultiStep,
    Optimiser,
    PerceptualLoss,
    PixelLoss,
    Schedule,
    Validation,
)

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
