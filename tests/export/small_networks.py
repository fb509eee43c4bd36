"""Networks of every kind, small enough to run in milliseconds, with weights that make pictures."""

import torch
from torch import nn

from esrgan_export.networks import build

CONFIGS = {
    "srvgg": {"name": "SRVGGNetCompact", "channels": 8, "convs": 1, "scale": 4},
    "srvgg-relu-x2": {"name": "SRVGGNetCompact", "channels": 8, "convs": 1, "scale": 2, "activation": "relu"},
    "rrdb": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 2},
    "rrdb-x8": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 1, "scale": 8},
    "rrdb-x2": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 1, "scale": 2},
    "rrdb-x1": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 1, "scale": 1},
    "residual": {"name": "RRDBNet", "channels": 8, "blocks": 2, "block": "residual"},
    "dense": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 2, "block": "dense"},
    "msrresnet": {"name": "MSRResNet", "channels": 8, "blocks": 2},
    "msrresnet-x3": {"name": "MSRResNet", "channels": 8, "blocks": 1, "scale": 3},
    "srresnet": {"name": "SRResNet", "channels": 8, "blocks": 2},
}


def small_network(kind, seed=0):
    """A network of `CONFIGS[kind]` whose output varies around 0.5 and goes a little beyond [0, 1]."""
    torch.manual_seed(seed)
    network = build(CONFIGS[kind]).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=1)
            nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    image = torch.rand(1, 3, 24, 32)
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    before = network(image)
    last.weight *= 0.2 / before.std()
    last.bias += 0.5 - network(image).mean()
    return network


def small_image(height=20, width=28, seed=0):
    """float32 (1, 3, height, width) in [0, 1]."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
