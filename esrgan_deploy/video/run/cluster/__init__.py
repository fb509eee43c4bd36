"""A clip on several machines, or several GPUs, by way of Ray."""

from esrgan_deploy.video.run.cluster.recipe import UpscalerRecipe
from esrgan_deploy.video.run.cluster.run import upscale_on_ray

__all__ = ["UpscalerRecipe", "upscale_on_ray"]
