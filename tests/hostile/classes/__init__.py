"""The classes of hostile input: one file each, with named ideas and with random damage of valid files.

A file has `IDEAS`, functions from a `Shop` to a `Case`, and `mutated`, which makes a random one. Case K of a seed is of
class K modulo their number; the first ones of a class are its ideas in their order, all further ones are random.
"""

import importlib
from dataclasses import dataclass

import numpy as np

NAMES = ("pictures", "clips", "y4m", "journals")
TORCH = ("checkpoints", "ncnn", "recipes", "states")
IDEA_SHARE = 0.25
"""Of the random cases, how many are an idea with other random values."""


@dataclass
class Spec:
    """One case, before it is made."""

    seed: int
    number: int
    kind: str
    idea: str
    make: object
    needs_torch: bool = False
    run: object = None


def spec(seed, number):
    """Case `number` of a seed."""
    kind = NAMES[number % len(NAMES)]
    module = importlib.import_module(f"hostile.classes.{kind}")
    turn = number // len(NAMES)
    if turn < len(module.IDEAS):
        make = module.IDEAS[turn]
    else:
        rng = np.random.default_rng([seed, number, 1])
        make = module.IDEAS[rng.integers(len(module.IDEAS))] if rng.random() < IDEA_SHARE else module.mutated
    return Spec(seed, number, kind, make.__name__, make, kind in TORCH)


def numbers(count, kinds=NAMES, first=0):
    """The numbers of `count` cases of some classes."""
    found = []
    number = first
    while len(found) < count:
        if NAMES[number % len(NAMES)] in kinds:
            found.append(number)
        number += 1
    return found


def every_idea():
    """The numbers of all cases that are an idea in its plain form."""
    modules = [importlib.import_module(f"hostile.classes.{kind}") for kind in NAMES]
    return sorted(
        turn * len(NAMES) + place for place, module in enumerate(modules) for turn in range(len(module.IDEAS))
    )
