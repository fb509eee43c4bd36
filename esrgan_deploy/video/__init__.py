"""Clips: what they are, and upscaling them frame by frame."""

from esrgan_deploy.video.encode import CODECS
from esrgan_deploy.video.job import VideoOptions
from esrgan_deploy.video.journal import parts_of
from esrgan_deploy.video.pipe import upscale_pipe
from esrgan_deploy.video.pipeline import VideoSummary, upscale_video
from esrgan_deploy.video.probe import VideoInfo, probe

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
