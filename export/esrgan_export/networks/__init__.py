"""Generators, one file each. All map float RGB (N, 3, H, W) in [0, 1] to (N, 3, H * scale, W * scale), not clamped."""

from __future__ import annotations

from collections.abc import Mapping

from esrgan_deploy.errors import ModelError
from esrgan_export.networks.msrresnet import MSRResNet
from esrgan_export.networks.network import Config, Network
from esrgan_export.networks.rrdbnet import RRDBNet
from esrgan_export.networks.srresnet import SRResNet
from esrgan_export.networks.srvgg import SRVGGNetCompact

__all__ = ["NETWORKS", "Config", "MSRResNet", "Network", "RRDBNet", "SRResNet", "SRVGGNetCompact", "build"]

NETWORKS: dict[str, type[Network]] = {
    network.__name__: network for network in (RRDBNet, SRVGGNetCompact, SRResNet, MSRResNet)
}
"""The networks by the name that is in their `config()`. Checkpoints are compared with them in this order."""

LARGEST = 4096
"""The largest value of any hyper-parameter, so that a damaged file does not build a network for hours. Real values are
below 300."""
LARGEST_OF: Mapping[str, int] = {"blocks": 64, "convs": 256, "scale": 64}
"""The largest depth takes a minute to be traced for export; published networks have up to 32 blocks or convolutions."""


def build(config: Mapping[str, int | str]) -> Network:
    """Build the network that `config` describes, with random weights.

    Raises:
        ModelError: an unknown "name", or arguments that this network does not have.
        OptionError: a value that this network does not allow.
    """
    arguments = dict(config)
    name = str(arguments.pop("name", None))
    if name not in NETWORKS:
        raise ModelError(f"network {name!r} is unknown; known are {', '.join(NETWORKS)}")
    for key, value in arguments.items():
        most = LARGEST_OF.get(key, LARGEST)
        if not isinstance(value, str) and not (isinstance(value, int) and 1 <= value <= most):
            raise ModelError(f"{name} cannot be built with {key}={value}: that is a whole number from 1 to {most}")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise ModelError(f"{name} cannot be built from {arguments}: {error}") from error
