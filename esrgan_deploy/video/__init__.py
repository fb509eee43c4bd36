"""Clips: what they are, and upscaling them frame by frame."""

from esrgan_deploy.video.encode import CODECS
from esrgan_deploy.video.pipeline import VideoSummary, upscale_video
from esrgan_deploy.video.probe import VideoInfo, probe

__all__ = ["CODECS", "VideoInfo", "VideoSummary", "probe", "upscale_video"]
