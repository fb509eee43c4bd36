"""The compact pair: a PSNR-oriented RRDBNet and the GAN trained from it, small enough for video on a CPU.

CARD.md says what they were trained on, how, and what they can do.
"""

from __future__ import annotations

from pathlib import Path

PSNR = Path(__file__).with_name("compact_psnr_x4.safetensors")
"""alpha 0."""
GAN = Path(__file__).with_name("compact_gan_x4.safetensors")
"""alpha 1; it names `PSNR` as its parent."""
