"""Measures of image quality, one file each; shared by verification, evaluation and training."""

from __future__ import annotations

from esrgan_export.metrics.psnr import psnr

__all__ = ["psnr"]
