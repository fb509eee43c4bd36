"""A frame as a video codec leaves it: encoded by FFmpeg's encoders through PyAV, and decoded again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction

import av
import numpy as np

from esrgan_export.image_types import Uint8Image

_RATE = 25
_BLOCK, _SMALLEST = 16, 64  # whole blocks: encoders read and write beyond the end of others

ENCODERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast"}),
    "h265": ("libx265", {"preset": "veryfast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "mpeg4": ("mpeg4", {}),
    "vp9": ("libvpx-vp9", {"b": "0", "deadline": "realtime", "cpu-used": "5"}),
}
"""Codec -> FFmpeg's encoder and its options; one thread each, so that the result is always the same."""
_DECODERS = {"h264": "h264", "h265": "hevc", "mpeg4": "mpeg4", "vp9": "vp9"}


def through_codec(frames: Sequence[Uint8Image], codec: str, quality: int) -> list[Uint8Image]:
    """Encode a clip and decode it again, in 4:2:0 as nearly all video is.

    Args:
        frames: uint8 RGB (H, W, 3), all of one size. Odd sizes are padded while they are encoded.
        codec: a key of `ENCODERS`.
        quality: `crf`, or for mpeg4 the quantiser; lower is better.

    Returns:
        The frames in the same order and size.
    """
    height, width = frames[0].shape[:2]
    below, right = (max(_SMALLEST, -(-length // _BLOCK) * _BLOCK) - length for length in (height, width))
    padded = [np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge") for frame in frames]
    encoder = _encoder(codec, quality, padded[0].shape[1], padded[0].shape[0])
    packets = []
    for number, pixels in enumerate(padded):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, _RATE)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(_DECODERS[codec], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    decoded = [frame for packet in packets for frame in decoder.decode(packet)] + list(decoder.decode(None))
    assert len(decoded) == len(frames), f"{codec}: {len(frames)} frames went in, {len(decoded)} came out"
    return [frame.to_ndarray(format="rgb24")[:height, :width].astype(np.uint8, copy=False) for frame in decoded]


def _encoder(codec: str, quality: int, width: int, height: int) -> av.VideoCodecContext:
    logging.getLogger("libav").setLevel(logging.ERROR)  # encoders describe themselves for each clip
    name, options = ENCODERS[codec]
    encoder = av.CodecContext.create(name, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, _RATE), Fraction(_RATE)
    encoder.thread_count = 1
    if codec == "mpeg4":  # a range of one quantiser; FFmpeg's `-q:v` is a property of the encoder's frames
        encoder.options = {"qmin": str(quality), "qmax": str(quality)}
    else:
        encoder.options = {**options, "crf": str(quality)}
    return encoder
