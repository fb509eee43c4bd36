"""Random weights in the layouts of AlexNet, VGG16, LPIPS and ST-LPIPS: every run makes the same ones again."""

import numpy as np
import torch

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
VGG_CHANNELS = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
VGG_CHANNELS += [(512, 512)] * 5
VGG_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG = {index: (o, i, 3) for index, (i, o) in zip(VGG_INDICES, VGG_CHANNELS, strict=True)}
HEADS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
ST_NAMES = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")


def write_classifiers(folder):
    """alex.pth and vgg.pth with heads, alex_trunk.pth and vgg_trunk.pth, st.pth with both."""
    for kind, convs in (("alex", ALEX), ("vgg", VGG)):
        torch.save(random_heads(HEADS[kind], seed=1), folder / f"{kind}.pth")
        torch.save(random_convs(convs, [f"features.{index}" for index in convs], seed=2), folder / f"{kind}_trunk.pth")
    st = random_heads(HEADS["alex"], seed=3) | random_convs(ALEX, [f"net.{name}" for name in ST_NAMES], seed=4)
    torch.save(st, folder / "st.pth")
    return folder


def random_convs(convs, names, seed):
    rng = np.random.default_rng(seed)
    weights = {}
    for (outputs, inputs, side), name in zip(convs.values(), names, strict=True):
        kernel = rng.standard_normal((outputs, inputs, side, side), dtype=np.float32)
        weights[f"{name}.weight"] = torch.from_numpy(kernel * (2 / kernel[0].size) ** 0.5)
        weights[f"{name}.bias"] = torch.from_numpy(rng.standard_normal(outputs, dtype=np.float32) * 0.1)
    return weights


def random_heads(channels, seed):
    rng = np.random.default_rng(seed)
    heads = (torch.from_numpy(rng.random((1, width, 1, 1), np.float32)) for width in channels)
    return {f"lin{tap}.model.1.weight": head for tap, head in enumerate(heads)}
