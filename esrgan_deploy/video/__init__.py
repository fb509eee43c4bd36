"""Clips: what they are, and upscaling them frame by frame."""

from esrgan_deploy.video.info import VideoInfo
from esrgan_deploy.video.output.checkpoint import parts_of
from esrgan_deploy.video.output.encode import CODECS
from esrgan_deploy.video.run.finish import VideoSummary
from esrgan_deploy.video.run.options import VideoOptions
from esrgan_deploy.video.run.pipe import upscale_pipe
from esrgan_deploy.video.run.pipeline import upscale_video
from esrgan_deploy.video.source.open import probe

__all__ = [
    "CODECS",
    "VideoInfo",
    "VideoOptions",
    "VideoSummary",
    "parts_of",
    "probe",
    "upscale_pipe",
    "upscale_video",
]
