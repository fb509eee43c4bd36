"""The classes of hostile input: one file each, with named ideas and with random damage of valid files.

A file has `IDEAS`, functions from a `Shop` to a `Case`, and `mutated`, which makes a random one. The first cases of a
class are its ideas in their order, all further ones are random. A case is named by its class and number, `onnx-12`.
"""

import importlib
import zlib
from dataclasses import dataclass

import numpy as np

NAMES = (
    "pictures",
    "clips",
    "y4m",
    "playlists",
    "journals",
    "onnx_files",
    "sidecars",
    "environment",
    "streams",
    "limits",
    "places",
    "checkpoints",
    "ncnn",
    "recipes",
    "states",
)
TORCH = ("checkpoints", "ncnn", "recipes", "states")
"""Run last, since they need PyTorch."""
IDEA_SHARE = 0.25
"""Of the random cases, how many are an idea with other random values."""


@dataclass
class Spec:
    """One case, before it is made."""

    seed: int
    name: str
    idea: str
    make: object
    needs_torch: bool = False
    run: object = None

    @property
    def kind(self):
        """Its class."""
        return self.name.rpartition("-")[0]

    def random(self, purpose=0):
        """A random generator of its own."""
        kind, _, number = self.name.rpartition("-")
        return np.random.default_rng([self.seed, zlib.crc32(kind.encode()), int(number), purpose])


def spec(seed, name):
    """A case by its name."""
    kind, _, number = name.rpartition("-")
    module = _module(kind)
    turn = int(number)
    made = Spec(seed, name, "", None, kind in TORCH)
    if turn < len(module.IDEAS):
        make = module.IDEAS[turn]
    else:
        rng = made.random(1)
        make = module.IDEAS[rng.integers(len(module.IDEAS))] if rng.random() < IDEA_SHARE else module.mutated
    made.idea, made.make = make.__name__, make
    return made


def names(count, kinds=NAMES):
    """The names of `count` cases, as many of each class."""
    return [f"{kinds[number % len(kinds)]}-{number // len(kinds)}" for number in range(count)]


def ideas_first(count, kinds=NAMES):
    """The names of all cases that are an idea in its plain form, and of random ones until there are `count`."""
    ideas = {kind: len(_module(kind).IDEAS) for kind in kinds}
    found = [f"{kind}-{turn}" for kind, most in ideas.items() for turn in range(most)]
    more = count - len(found)
    return found + [f"{kinds[n % len(kinds)]}-{ideas[kinds[n % len(kinds)]] + n // len(kinds)}" for n in range(more)]


def _module(kind):
    return importlib.import_module(f"hostile.classes.{kind}")
