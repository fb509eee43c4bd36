"""Network interpolation beside image interpolation, on one photo (Wang et al. 2018, section 3.4 and figure 10)."""

from __future__ import annotations

import cv2
import numpy as np

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.system.files import replacing
from esrgan_export.image_types import FloatImage, Uint8Image
from esrgan_export.interpolate import blend_images
from esrgan_export.networks import Network
from esrgan_export.photos import load_photos
from esrgan_export.verify import run_network

PHOTO = "dogs"
CAPTION_HEIGHT = 28


def draw_comparison(psnr: Network, gan: Network, interpolated: Network, alpha: float) -> Uint8Image:
    """Four results side by side with captions: PSNR, network interpolation, image interpolation, GAN.

    Args:
        psnr: the network at alpha 0.
        gan: the network at alpha 1.
        interpolated: the network at `alpha`.
        alpha: the GAN's share, the same for both kinds of interpolation.

    Returns:
        uint8 RGB.
    """
    frame = load_photos()[PHOTO].astype(np.float32) / np.float32(255)
    first, last = (run_network(network, frame).clip(0, 1) for network in (psnr, gan))
    panels = {
        "PSNR": first,
        f"network interpolation {alpha:g}": run_network(interpolated, frame).clip(0, 1),
        f"image interpolation {alpha:g}": blend_images(first, last, alpha),
        "GAN": last,
    }
    return np.concatenate([_captioned(caption, panel) for caption, panel in panels.items()], axis=1)


def write_comparison(picture: Uint8Image, path: StrPath) -> None:
    """Write uint8 RGB as PNG.

    Raises:
        OutputError: `path` cannot be written.
    """
    _, png = cv2.imencode(".png", picture[:, :, ::-1])
    with replacing(as_path(path)) as partial:
        partial.write_bytes(png.tobytes())


def _captioned(caption: str, panel: FloatImage) -> Uint8Image:
    pixels = np.rint(panel * 255).astype(np.uint8)
    strip = np.full((CAPTION_HEIGHT, pixels.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, caption, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, pixels])
