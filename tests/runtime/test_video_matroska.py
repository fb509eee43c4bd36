"""EBML against the examples of RFC 8794, and whether Matroska files end where they say."""

import io
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips import write_clip
from esrgan_deploy.video.source.file_end import missing_bytes
from esrgan_deploy.video.source.matroska import elements, number, video_header


@pytest.mark.parametrize(
    ("coded", "value"),
    [
        ("82", 2),  # RFC 8794, section 4.4: all ways to write 2 in up to four bytes
        ("4002", 2),
        ("200002", 2),
        ("10000002", 2),
        ("fe", 126),  # section 6.2: the largest length in one byte, since all ones are an unknown one
        ("407f", 127),
        ("ff", None),
        ("01ffffffffffffff", None),
    ],
)
def test_numbers(coded, value):
    file = io.BytesIO(bytes.fromhex(coded) + b"rest")
    assert number(file) == value
    assert file.read() == b"rest"


@pytest.mark.parametrize("content", [b"", bytes(9)])
def test_what_is_no_number(content):
    assert number(io.BytesIO(content)) is None
    assert list(elements(content)) == []


def test_names_keep_their_marker():
    assert number(io.BytesIO(b"\x1a\x45\xdf\xa3"), keep_marker=True) == 0x1A45DFA3
    assert number(io.BytesIO(b"\xff"), keep_marker=True) == 0xFF


@given(st.lists(st.tuples(st.sampled_from([0xAE, 0x55B0, 0x2AD7B1, 0x18538067]), st.binary(max_size=300))))
def test_elements_come_apart_as_they_were_joined(expected):
    def element(name, body):
        length = (1 << 14 | len(body)).to_bytes(2, "big")
        return name.to_bytes((name.bit_length() + 7) // 8, "big") + length + body

    assert list(elements(b"".join(element(*each) for each in expected))) == expected


def test_an_element_of_unknown_length_lasts_until_the_end():
    assert list(elements(b"\xae\x81A\xe0\xff" + b"rest")) == [(0xAE, b"A"), (0xE0, b"rest")]


def test_the_header_of_a_video(tmp_path):
    with av.open(str(write_clip(tmp_path / "clip.mp4", size=(48, 64)))) as clip:
        header = video_header(clip.streams.video[0])
    assert (header[0xB0], header[0xBA]) == (b"\x40", b"\x30"), "PixelWidth and PixelHeight, RFC 9559, 5.1.4.1.28"


@pytest.mark.parametrize(("codec", "suffix"), [("flv", ".flv"), ("rawvideo", ".y4m")])
def test_a_codec_that_matroska_cannot_hold(tmp_path, codec, suffix):
    path = write_clip(
        tmp_path / f"clip{suffix}", codec=codec, pts=range(2), time_base=Fraction(1, 25), options={"preset": ""}
    )
    with av.open(str(path)) as clip:
        assert video_header(clip.streams.video[0]) == {}


@pytest.mark.parametrize("live", [False, True])
def test_where_a_file_should_end(tmp_path, live):
    """A live recording does not know how long it will be."""
    source, path = write_clip(tmp_path / "clip.mp4"), tmp_path / "clip.mkv"
    with (
        av.open(str(source)) as clip,
        av.open(str(path), "w", container_options={"live": "1"} if live else {}) as copy,
    ):
        stream = copy.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    assert missing_bytes(path) == 0
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert missing_bytes(path) == (0 if live else 100)
