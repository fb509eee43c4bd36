"""Interpolate between a PSNR-oriented network and the GAN that was trained from it.

Wang et al. 2018 (ESRGAN), section 3.4:  theta = (1 - alpha) * theta_PSNR + alpha * theta_GAN

A small alpha gives faithful pictures, a large one sharp pictures. This works because the GAN was fine-tuned from the
PSNR network, so that each filter still has its purpose. The mean of two unrelated filters has none, and pictures come
out dark and wrong. So the parent that a file names and the similarity of the weights are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esrgan_deploy.alpha import check_alpha
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_export.checkpoint import Checkpoint
from esrgan_export.networks import Network, build

Lineage = Literal["parent", "siblings", "same", "unknown", "contradicts"]
AnyImage = TypeVar("AnyImage", Tensor, "np.ndarray[tuple[int, ...], np.dtype[np.floating]]")

UNRELATED_BELOW = 0.5
"""Median cosine similarity below which two networks count as unrelated.

Measured, with the PSNR between the picture at alpha 0.5 and the mean of both parents' pictures:

    0.99  small RRDBNet, 100 steps of fine-tuning for sharpness at 2e-4     44 dB
    0.91  the same, 500 steps                                               27 dB, closer to HR than either parent
    0.87  the same, 300 steps at 1e-3                                       33 dB
    0.33  Real-ESRGAN x4plus and RealSR DF2K, remote relatives           20-23 dB, and 5 to 11 % darker
    0.01  small RRDBNets trained from two seeds                             12 dB
"""


@dataclass(frozen=True)
class Relatedness:
    """Signs that the GAN was trained from the PSNR network, or was not."""

    similarity: float
    """Median over all convolutions of the cosine between the two weight tensors; 1 for equal networks."""
    lineage: Lineage
    """What the files say. parent: the GAN started from this PSNR file; siblings: both started from a third file; same:
    both are one file; unknown: nothing; contradicts: the GAN started from another file."""
    warning: str | None
    """One line for the user if the similarity is below `UNRELATED_BELOW`."""


def interpolate(psnr: Checkpoint, gan: Checkpoint, alpha: float) -> Network:
    """The network with theta = (1 - alpha) * PSNR + alpha * GAN, in fp32, ready for inference.

    All floating-point tensors are interpolated, also the running statistics of batch normalisation; its counters are
    the GAN's. alpha 0 and 1 give the outputs of the two networks bit for bit.

    Raises:
        OptionError: alpha is not in [0, 1].
        ModelError: the networks differ, one is a moving average (EMA) and the other is not, or the GAN's file names
            another parent. The message names both files and the first difference.
    """
    check_alpha(alpha)
    _check_pair(psnr, gan)
    return blend_weights(psnr.network, gan.network, alpha)


def blend_weights(psnr: Network, gan: Network, alpha: float) -> Network:
    """`interpolate` without its checks, for two networks of one configuration; they are not changed."""
    first, second = psnr.state_dict(), gan.state_dict()
    theta = {
        key: (1 - alpha) * first[key] + alpha * second[key] if second[key].is_floating_point() else second[key].clone()
        for key in second
    }
    with torch.device("meta"):
        network = build(gan.config())
    network.load_state_dict(theta, assign=True)
    return network.eval().requires_grad_(False)


def relatedness(psnr: Checkpoint, gan: Checkpoint) -> Relatedness:
    """Compare weights and lineage of two checkpoints of the same network.

    Raises:
        ModelError: the networks differ, so that their weights cannot be compared.
    """
    _check_same_network(psnr, gan)
    first, second = psnr.network.state_dict(), gan.network.state_dict()
    cosines = [F.cosine_similarity(first[k].flatten(), second[k].flatten(), 0) for k in first if first[k].ndim == 4]
    similarity = float(torch.stack(cosines).median())
    warning = None
    if similarity < UNRELATED_BELOW:
        warning = (
            f"{psnr.path} and {gan.path} look unrelated: the median cosine similarity of their weights is "
            f"{similarity:.2f} (below {UNRELATED_BELOW}), so pictures between them are likely to be dark; "
            "interpolate only with a GAN that was trained from the PSNR network"
        )
    return Relatedness(similarity, _lineage(psnr, gan), warning)


def blend_images(psnr_sr: AnyImage, gan_sr: AnyImage, alpha: float) -> AnyImage:
    """Image interpolation, the paper's alternative: blend the outputs of both networks instead of their weights.

    Takes two float arrays or tensors of one shape. It needs the outputs of both networks, and keeps a share of the
    GAN's artefacts that network interpolation removes. It is here for comparison.

    Raises:
        OptionError: alpha is not in [0, 1], or the shapes differ.
    """
    check_alpha(alpha)
    if psnr_sr.shape != gan_sr.shape:
        raise OptionError(f"pictures of shape {tuple(psnr_sr.shape)} and {tuple(gan_sr.shape)} cannot be blended")
    return (1 - alpha) * psnr_sr + alpha * gan_sr


def _check_pair(psnr: Checkpoint, gan: Checkpoint) -> None:
    _check_same_network(psnr, gan)
    if {psnr.kind, gan.kind} == {"params", "params_ema"}:
        raise ModelError(
            f"{psnr.path} holds {psnr.kind} and {gan.path} {gan.kind}; interpolate averaged weights (params_ema) with "
            "averaged ones, or last ones with last ones"
        )
    if _lineage(psnr, gan) != "contradicts":
        return
    if psnr.parent_sha256 == gan.sha256:
        raise ModelError(f"{psnr.path} was trained from {gan.path}, so they are the wrong way round; swap PSNR and GAN")
    raise ModelError(
        f"{gan.path} was trained from a file with SHA-256 {gan.parent_sha256}, and not from {psnr.path} "
        f"({psnr.sha256}); give that file as the PSNR network"
    )


def _check_same_network(psnr: Checkpoint, gan: Checkpoint) -> None:
    first, second = psnr.network.config(), gan.network.config()
    for key in first | second:
        if first.get(key) != second.get(key):
            raise ModelError(
                f"{psnr.path} and {gan.path} are different networks: {key} is {first.get(key)} and {second.get(key)}; "
                "only equal ones can be interpolated"
            )


def _lineage(psnr: Checkpoint, gan: Checkpoint) -> Lineage:
    if psnr.sha256 == gan.sha256:
        return "same"
    if gan.parent_sha256 == psnr.sha256:
        return "parent"
    if psnr.parent_sha256 == gan.sha256:
        return "contradicts"
    if gan.parent_sha256 is None:
        return "unknown"
    return "siblings" if gan.parent_sha256 == psnr.parent_sha256 else "contradicts"
