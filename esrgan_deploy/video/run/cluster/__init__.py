"""A clip on several machines, or several GPUs, by way of Ray."""

from esrgan_deploy.video.run.cluster.recipe import UpscalerSpec
from esrgan_deploy.video.run.cluster.run import upscale_on_ray

__all__ = ["UpscalerSpec", "upscale_on_ray"]
