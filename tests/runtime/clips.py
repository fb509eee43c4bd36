"""Makes the clips that the video tests need, and reads back what came out. With PyAV alone, no ffmpeg program."""

import hashlib
from fractions import Fraction

import av
import numpy as np

from esrgan_deploy import ModelInfo, Upscaler
from esrgan_deploy.backends.reference import ReferenceSession

SIZE = (48, 64)
"""Height and width of the frames, unless told otherwise."""
TICKS = Fraction(1, 12800)
BITS = 8


def nearest(scale=2):
    """An upscaler that repeats pixels: quick, and its result is easy to check."""
    return Upscaler(ReferenceSession(ModelInfo(scale=scale, overlap=0)), tile=0)


def numbered(index, size=SIZE):
    """A frame that shows `index` as a row of dark and bright bars, least significant bit on the left."""
    height, width = size
    bits = [200 if index >> bit & 1 else 50 for bit in range(BITS)]
    luma = np.repeat(bits, width // BITS)
    luma = np.pad(luma, (0, width - len(luma)), mode="edge")
    return yuv_frame(np.tile(luma, (height, 1)), 128, 128)


def read_number(frame):
    """What `numbered` wrote, after any enlargement."""
    luma = planes(frame)[0]
    row = luma[luma.shape[0] // 2]
    bars = [row[round((bit + 0.5) * len(row) / BITS)] for bit in range(BITS)]
    return sum(1 << bit for bit, value in enumerate(bars) if value > 125)


def yuv_frame(luma, cb, cr, pixel_format="yuv420p"):
    """A frame from planes; chroma may be single values, and `luma` decides the size."""
    luma = np.asarray(luma)
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], pixel_format)
    for plane, values in zip(frame.planes, (luma, cb, cr), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded.tobytes())
    return frame


def planes(frame):
    """The planes of a planar 8 bit frame, as arrays of integers."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].astype(int)
        for plane in frame.planes
    ]


def write_clip(
    path,
    pts=tuple(range(0, 12 * 512, 512)),
    *,
    time_base=TICKS,
    rate=25,
    size=SIZE,
    draw=numbered,
    codec="libx264",
    pixel_format="yuv420p",
    options=None,
    last_duration=None,
    tags=None,
    rotation=None,
    sounds=(),
    subtitle=False,
    metadata=None,
    chapters=(),
    container_options=None,
):
    """Encode one frame for each entry of `pts`, in units of `time_base`.

    Args:
        path: the suffix chooses the container.
        pts: strictly increasing.
        time_base: seconds per unit.
        rate: what the container is told.
        size: height and width.
        draw: gives the frame of an index.
        codec: FFmpeg's encoder.
        pixel_format: of the encoder.
        options: of the encoder; B-frames and small GOPs come from here.
        last_duration: of the last frame, in units of `time_base`; without B-frames only.
        tags: attributes of the codec context, for instance colorspace.
        rotation: degrees of the display matrix.
        sounds: (start in seconds, seconds) of AAC tracks.
        subtitle: add an SRT track (Matroska only).
        metadata: tags of the file.
        chapters: (start, end, title) in milliseconds.
        container_options: of the muxer.
    """
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        video = out.add_stream(
            codec, rate=rate, options={"preset": "ultrafast", **(options or {})}, time_base=time_base
        )
        video.height, video.width = size
        video.pix_fmt = pixel_format
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if rotation is not None:
            video.set_display_rotation(rotation)
        tracks = [out.add_stream("aac", rate=48000, layout="mono", bit_rate=32000) for _ in sounds]
        titles = out.add_mux_stream("subrip", time_base=Fraction(1, 1000)) if subtitle else None
        out.metadata.update(metadata or {})
        out.set_chapters(
            [
                {"id": n, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for n, (start, end, title) in enumerate(chapters)
            ]
        )
        out.start_encoding()
        for index, time in enumerate(pts):
            frame = draw(index, size)
            frame.pts, frame.time_base = time, time_base
            out.mux(video.encode(frame))
        rest = video.encode(None)
        if last_duration:
            rest[-1].duration = last_duration
        out.mux(rest)
        for track, (start, seconds) in zip(tracks, sounds, strict=True):
            _write_sound(out, track, start, seconds)
        if titles:
            for start in (0, 300):
                _write_title(out, titles, start)
    return path


def _write_sound(out, track, start, seconds):
    noise = np.random.default_rng(track.index)
    for first in range(0, round(seconds * 48000), 1024):
        frame = av.AudioFrame.from_ndarray(noise.normal(0, 0.1, (1, 1024)).astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), first + round(start * 48000)
        out.mux(track.encode(frame))
    out.mux(track.encode(None))


def _write_title(out, titles, start_ms):
    packet = av.Packet(f"title at {start_ms}".encode())
    packet.pts = packet.dts = start_ms
    packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), titles
    out.mux(packet)


def read_frames(path):
    """All frames of a clip: (time in seconds, number shown, frame)."""
    with av.open(str(path)) as clip:
        return [(time_of(frame), read_number(frame), frame) for frame in clip.decode(video=0)]


def times(path):
    """Times of all frames, in seconds, exact."""
    return [time for time, _, _ in read_frames(path)]


def copied_packets(path, kinds=("audio", "subtitle")):
    """(stream, time in seconds, hash of the bytes) of every packet that is not video, stream by stream."""
    with av.open(str(path)) as clip:
        packets = [packet for packet in clip.demux() if packet.size and packet.stream.type in kinds]
        return sorted(
            ((packet.stream.index, time_of(packet), hashlib.sha256(bytes(packet)).hexdigest()) for packet in packets),
            key=lambda entry: entry[:2],
        )


def time_of(item):
    """PTS of a frame or packet in seconds, exact on every version of PyAV."""
    return item.pts * Fraction(item.time_base.numerator, item.time_base.denominator)
