"""YUV4MPEG2 that is cut, damaged or makes claims: byte by byte, every frame counts. No ffmpeg program."""

import io
import random

import av
import pytest

from clips import nearest
from esrgan_deploy import budget
from esrgan_deploy.errors import EsrganError, MachineError, MediaError, OptionError
from esrgan_deploy.video import VideoOptions, upscale_pipe, upscale_video
from esrgan_deploy.video.source.y4m import Y4mHeader

KINDS = [
    *("420", "420jpeg", "420mpeg2", "420paldv", "411", "422", "444", "444alpha", "mono"),
    *(f"mono{bits}" for bits in (9, 10, 12, 16)),
    *(f"{chroma}p{bits}" for chroma in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)),
]
FRAME = 16 * 16 * 3 // 2


def y4m(frames=5, header=b"W16 H16 F25:1 C420jpeg", marker=b"FRAME\n", size=FRAME):
    return b"YUV4MPEG2 " + header + b"\n" + (marker + bytes(size)) * frames


def frames_of(data, **options):
    """How many frames come out, and the error if there is one."""
    out, message = io.BytesIO(), None
    try:
        upscale_pipe(io.BytesIO(data), out, nearest(1), VideoOptions(**options))
    except MediaError as error:
        message = str(error)
    return out.getvalue().count(b"FRAME\n"), message


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_frame_is_what_ffmpeg_takes(kind):
    line = f"YUV4MPEG2 W17 H15 F25:1 C{kind}\n".encode()
    size = Y4mHeader(line).frame_bytes
    with av.open(io.BytesIO(line + (b"FRAME\n" + bytes(size)) * 3), format="yuv4mpegpipe") as clip:
        assert [packet.size for packet in clip.demux() if packet.size] == [size] * 3


@pytest.mark.parametrize("marker", [b"FRAME\n", b"FRAME Ip XANY\n"])
def test_a_cut_at_any_byte_is_noticed_but_between_frames(marker):
    whole = y4m(4, marker=marker)
    unit = len(marker) + FRAME
    start = len(whole) - 4 * unit
    places = range(start + unit, len(whole) + 1)
    for end in [
        *random.Random(1).sample(places, 20),
        *(start + unit * n + more for n in (2, 3) for more in range(-3, 8)),
    ]:
        frames, rest = divmod(end - start, unit)
        written, message = frames_of(whole[:end])
        assert written == frames
        cut = (
            f"standard input: ends in the middle of frame {frames}; look at the program that writes to the pipe; "
            f"the {frames} frames before that are written"
        )
        assert message == (cut if rest else None)


@pytest.mark.parametrize("marker", [b"FRAMX\n", b"FRAMES\n", b"\n", bytes(6), b"FRAME " + b"x" * 80 + b"\n"])
def test_a_bad_line_ends_with_one_clear_line(marker):
    data = y4m(3) + marker + bytes(FRAME) + y4m(2)
    written, message = frames_of(data)
    assert written == 3
    assert message.startswith("standard input: has b")
    assert "where the line of frame 3 should be; look at the program" in message


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"W16 H16 F25:1 Cmono7", "its frames are of kind Cmono7, which FFmpeg does not know"),
        (b"W16 H16 F25:1 Cxyz", "its frames are of kind Cxyz, which FFmpeg does not know"),
        (b"W-1 H16 F25:1", "its frames are '-1' x '16', and sides are numbers"),
        (b"W99999 H99999 F25:1", "its frames are '99999' x '99999', and sides are numbers"),
        (b"H16 F25:1", "its frames are '' x '16'"),
        (b"W16 H16 F25:1 X" + b"y" * 5000, "it does not begin with YUV4MPEG2 and a line of at most 96 bytes"),
    ],
)
def test_a_bad_header_is_refused(header, says):
    written, message = frames_of(y4m(header=header))
    assert written == 0
    assert message.startswith("standard input: is no YUV4MPEG2, or holds no frame; send it with ffmpeg")
    assert says in message


def test_a_frame_that_fits_into_no_memory_is_refused():
    budget.set_memory_limit(2**30)
    try:
        with pytest.raises(MachineError, match=r"a frame of 65535x65535 needs 6.0 GiB of memory"):
            frames_of(y4m(header=b"W65535 H65535 F25:1"))
    finally:
        budget.set_memory_limit(None)


def test_grey_that_holds_colour_is_noticed():
    """The sizes of the frames do not fit what the header says."""
    written, message = frames_of(y4m(3, b"W16 H16 F25:1 Cmono"))
    assert written == 1
    assert "where the line of frame 1 should be" in message


@pytest.mark.parametrize("cut", [1, 100, FRAME, FRAME + 5])
def test_a_file_that_is_cut(tmp_path, cut):
    source = tmp_path / "in.y4m"
    source.write_bytes(y4m(5)[:-cut])
    with pytest.raises(MediaError, match=r"bytes are missing at the end.*holds the 4 frames before that"):
        upscale_video(source, tmp_path / "out.mkv", nearest(1))


@pytest.mark.parametrize("from_pipe", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        *({"duration_s": value} for value in (float("inf"), float("nan"), 1e308, 1e10, -1.0, 0.0)),
        *({"frames": value} for value in ((0, 10**30), (10**30, None), (10**30, 10**31))),
        *({"stream": value} for value in (10**30, -1)),
        *({"quality": value} for value in (10**30, -1)),
    ],
    ids=str,
)
def test_numbers_that_no_clip_has(tmp_path, options, from_pipe):
    source = tmp_path / "in.y4m"
    source.write_bytes(y4m())
    with pytest.raises((OptionError, MediaError)) as caught:
        if from_pipe:
            upscale_pipe(io.BytesIO(y4m()), tmp_path / "out.mkv", nearest(1), VideoOptions(**options))
        else:
            upscale_video(source, tmp_path / "out.mkv", nearest(1), VideoOptions(**options))
    assert isinstance(caught.value, EsrganError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.mkv").exists()
