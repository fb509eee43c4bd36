"""SRVGGNetCompact written out in numpy: small networks with random weights, and the picture that one makes."""

import numpy as np


def srvgg_weights(seed, channels=6, convs=2, scale=2):
    """Weights by their names in PyTorch."""
    rng = np.random.default_rng(seed)
    weights = {}
    for k in range(convs + 2):
        inputs, outputs = (3 if k == 0 else channels), (channels if k <= convs else 3 * scale**2)
        kernel = rng.normal(0, 0.7 / np.sqrt(9 * inputs), (outputs, inputs, 3, 3))
        weights[f"body.{2 * k}.weight"] = kernel.astype(np.float32)
        weights[f"body.{2 * k}.bias"] = rng.normal(0, 0.05, outputs).astype(np.float32)
        if k <= convs:
            weights[f"body.{2 * k + 1}.weight"] = rng.uniform(0, 0.5, channels).astype(np.float32)
    return weights


def picture(weights, image, scale=2):
    """(3, H, W) -> (3, H * scale, W * scale), clamped, in float64."""
    x, last = image.astype(np.float64), max(int(name.split(".")[1]) for name in weights)
    for k in range(0, last + 1, 2):
        x = _convolve(x, weights[f"body.{k}.weight"], weights[f"body.{k}.bias"])
        if k < last:
            x = np.where(x >= 0, x, x * weights[f"body.{k + 1}.weight"][:, None, None])
    height, width = x.shape[1:]
    blocks = x.reshape(3, scale, scale, height, width)
    large = blocks.transpose(0, 3, 1, 4, 2).reshape(3, height * scale, width * scale)
    return np.clip(large + image.repeat(scale, 1).repeat(scale, 2), 0, 1)


def _convolve(x, kernel, bias):
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    taps = [
        np.tensordot(kernel[:, :, dy, dx].astype(np.float64), padded[:, dy : dy + height, dx : dx + width], 1)
        for dy in range(3)
        for dx in range(3)
    ]
    return sum(taps) + bias[:, None, None]
