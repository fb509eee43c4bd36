"""The compact pair: a PSNR-oriented RRDBNet and the GAN trained from it, small enough for video on a CPU.

CARD.md says how and on what they were trained, and how good they are.
"""

from __future__ import annotations

from pathlib import Path

PSNR = Path(__file__).with_name("compact_psnr_x4.safetensors")
"""The PSNR network: alpha 0."""
GAN = Path(__file__).with_name("compact_gan_x4.safetensors")
"""The GAN: alpha 1. Its file names `PSNR` as its parent."""
