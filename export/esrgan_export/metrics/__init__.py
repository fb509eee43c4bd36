"""Measures of image quality, one file each; shared by verification, evaluation and training."""

from __future__ import annotations

from esrgan_export.metrics.niqe import niqe
from esrgan_export.metrics.perceptual_index import perceptual_index
from esrgan_export.metrics.psnr import mean_psnr, psnr, psnr_rgb, psnr_y
from esrgan_export.metrics.rmse import pirm_mse, pirm_region, pirm_rmse
from esrgan_export.metrics.ssim import ssim_rgb, ssim_y

__all__ = [
    "mean_psnr",
    "niqe",
    "perceptual_index",
    "pirm_mse",
    "pirm_region",
    "pirm_rmse",
    "psnr",
    "psnr_rgb",
    "psnr_y",
    "ssim_rgb",
    "ssim_y",
]
