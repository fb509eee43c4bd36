"""The output file: the encoded picture between copies of everything else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.video.decode import Frame
from esrgan_deploy.video.encode import CODECS, Encoder
from esrgan_deploy.video.passthrough import FORMATS, Passthrough, copy_tags, due_s, set_back, start_of_clock
from esrgan_deploy.video.probe import VideoInfo
from esrgan_deploy.video.reading import KEEP_TAG_BYTES, fraction, open_clip


class Output:
    """Takes frames, writes a file."""

    def __init__(
        self, container: OutputContainer, encoder: Encoder, passthrough: Passthrough, start_s: Fraction
    ) -> None:
        self._container = container
        self._encoder = encoder
        self._passthrough = passthrough
        self._start_s = start_s

    def write(self, frame: Frame) -> None:
        """Encode `frame`; write the packets that are ready, and those of other streams that are due before them."""
        self._mux(self._encoder.encode(frame))

    def finish(self) -> Iterator[None]:
        """Write what encoder and source still hold, a packet at each step, so that the caller can stop in between."""
        for packet in self._encoder.flush():
            self._mux([packet])
            yield
        yield from self._passthrough.copy_rest()
        self._container.close()

    def _mux(self, packets: Iterable[Packet[VideoStream]]) -> None:
        for packet in packets:
            set_back(packet, self._start_s)
            self._passthrough.copy_until(due_s(packet))
            self._container.mux(packet)


@contextlib.contextmanager
def open_output(
    path: Path, info: VideoInfo, size: tuple[int, int], codec: str, quality: int | None
) -> Iterator[Output]:
    """Create a file with a header for the picture of a clip in another size, and for all other streams of the clip.

    What cannot work is refused here, before the first frame.

    Args:
        path: the file; its suffix, a key of `FORMATS`, chooses the format.
        info: the source.
        size: height and width of the frames to come.
        codec: a key of `CODECS`.
        quality: constant rate factor; None: the codec's default.

    Raises:
        OptionError: a quality that the encoder does not know.
        OutputError: the format cannot hold the codec, the pixel shape or one of the source's streams.
        MediaError: the encoder does not take frames of this size.
    """
    name = FORMATS[path.suffix.lower()]
    with open_clip(info.path) as source:
        options = {} if name == "matroska" else {"movie_timescale": str(_movie_timescale(source, info))}
        container = av.open(f"file:{path}", "w", format=name, container_options=options, **KEEP_TAG_BYTES)
        try:
            encoder = _add_encoder(container, info, size, codec, quality)
            copy_tags(source.streams[info.stream], encoder.stream)
            start_s = start_of_clock(source)
            passthrough = Passthrough(source, container, info, start_s)
            _start(container, info, codec)
            yield Output(container, encoder, passthrough, start_s)
        except OSError as error:
            if isinstance(error, FFmpegError):  # reading maps its own, so this was a write
                raise OSError(error.errno, error.strerror) from error
            raise
        finally:
            # After an error the file is thrown away, so a trailer that does not fit on the disk is no second error.
            with contextlib.suppress(FFmpegError):
                container.close()


def _add_encoder(
    container: OutputContainer, info: VideoInfo, size: tuple[int, int], codec: str, quality: int | None
) -> Encoder:
    name = container.format.name
    if codec == "av1" and name == "matroska" and info.sample_aspect != 1:
        raise OutputError(
            f"{info.path}: its pixels are {info.sample_aspect} as wide as high, which FFmpeg does "
            "not write for AV1 in Matroska; write .mp4, or choose h264 or h265"
        )
    encoder = Encoder(container, info, size, CODECS[codec], quality)
    try:
        encoder.stream.codec_context.open()
    except FFmpegError as error:
        raise MediaError(
            f"{info.path}: {codec} cannot encode frames of {size[1]}x{size[0]}; choose another codec or a smaller scale"
        ) from error
    return encoder


def _start(container: OutputContainer, info: VideoInfo, codec: str) -> None:
    try:
        container.start_encoding()
    except OSError:
        raise
    except FFmpegError as error:
        raise OutputError(
            f"{info.path}: {codec} and its other streams ({', '.join(info.others) or 'none'}) do not fit into "
            f"{container.format.name} together: {error.strerror}; write .mkv"
        ) from error


def _movie_timescale(source: InputContainer, info: VideoInfo) -> int:
    """Units per second in which MP4 counts the delays of its tracks.

    FFmpeg's default of 1000 would round the first time stamp of the picture against the sound. The finest scale whose
    duration still fits into 32 bits is taken, since players are careless about the 64 bit form.
    """
    every = math.lcm(
        *(fraction(stream.time_base).denominator for stream in (*source.streams.video, *source.streams.audio))
    )
    for scale in (every, info.time_base.denominator):
        if scale * max(1.0, info.duration_s or 0.0) < 2**31:
            return scale
    return 1000
