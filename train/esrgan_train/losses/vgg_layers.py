"""Names of the layers of VGG16 and VGG19, in a module without torch, so that a recipe is checked quickly."""

from __future__ import annotations

from typing import Literal

Architecture = Literal["vgg16", "vgg19"]

CONVS: dict[str, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def layer_names(architecture: Architecture) -> list[str]:
    """All layers, first to last. The position of a name is the number that torchvision's `features` gives the layer."""
    names = []
    for block, convs in enumerate(CONVS[architecture], start=1):
        for conv in range(1, convs + 1):
            names += [f"conv{block}_{conv}", f"relu{block}_{conv}"]
        names.append(f"pool{block}")
    return names
