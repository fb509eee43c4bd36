"""A clip on several machines, or several GPUs, by way of Ray."""

from esrgan_deploy.video.run.cluster.run import upscale_on_ray
from esrgan_deploy.video.run.cluster.upscaler_spec import UpscalerSpec

__all__ = ["UpscalerSpec", "upscale_on_ray"]
