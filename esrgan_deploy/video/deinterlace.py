"""Pictures of two fields, taken at different moments, made into pictures of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
from av.video.frame import VideoFrame

from esrgan_deploy.errors import MediaError
from esrgan_deploy.video.probe import VideoInfo
from esrgan_deploy.video.reading import fraction


def deinterlaced(pictures: Iterable[tuple[VideoFrame, int]], info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    """FFmpeg's bwdif: one picture for each one, at the same time. Pictures marked as progressive stay as they are.

    Args:
        pictures: with their PTS, in units of the clip's time base. A picture depends on its two neighbours.
        info: of the clip.

    Raises:
        MediaError: `pictures` did; all pictures before that have come out.
    """
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add(
            "buffer",
            video_size=f"{info.width}x{info.height}",
            pix_fmt=info.pixel_format,
            time_base=f"{info.time_base.numerator}/{info.time_base.denominator}",
        ),
        graph.add("bwdif", mode="send_frame", deint="interlaced"),
        graph.add("buffersink"),
    )
    graph.configure()
    try:
        for picture, pts in pictures:
            picture.pts, picture.time_base = pts, info.time_base
            graph.vpush(picture)
            yield from _ready(graph, info)
    except MediaError:  # damage; the picture before it is still in the filter
        graph.vpush(None)
        yield from _ready(graph, info)
        raise
    graph.vpush(None)
    yield from _ready(graph, info)


def _ready(graph: av.filter.Graph, info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    while True:
        try:
            picture = graph.vpull()
        except (BlockingIOError, av.error.EOFError):
            return
        # bwdif counts in halves of the time base.
        units = fraction(picture.time_base) / info.time_base
        picture.duration = round(picture.duration * units)
        yield picture, round((picture.pts or 0) * units)
