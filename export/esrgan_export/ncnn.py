"""Networks that are stored for ncnn, in PyTorch; `esrgan_deploy.ncnn` reads the files."""

from __future__ import annotations

import torch

from esrgan_deploy.arguments import StrPath
from esrgan_deploy.ncnn import NcnnNetwork
from esrgan_deploy.ncnn import read_ncnn as read_files
from esrgan_export.networks import Network, build


def read_ncnn(param: StrPath, weights: StrPath) -> Network:
    """The network (fp32) that `param` and `weights` hold: RRDBNet x1, x2, x4 or x8, or SRVGGNetCompact with PReLU.

    fp16 weights are returned as they are stored, so they are not bit-identical to the checkpoint that was converted.

    Raises:
        ModelError: a file cannot be read, is damaged, or holds another network; the message names what differs.
        MachineError: the weights do not fit into memory.
    """
    return in_pytorch(read_files(param, weights))


def in_pytorch(stored: NcnnNetwork) -> Network:
    """`stored` as a network of `esrgan_export.networks`, which shares its memory."""
    with torch.device("meta"):  # without memory and random weights, which would be replaced at once
        network = build(stored.config)
    network.load_state_dict({name: torch.from_numpy(values) for name, values in stored.weights.items()}, assign=True)
    return network
