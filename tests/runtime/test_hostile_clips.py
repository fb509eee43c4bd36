"""Files that pretend to be clips, and playlists that lead somewhere else or never end: refused at once, in one line."""

import contextlib
import os
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import nearest, times, write_clip, yuv_frame
from esrgan_deploy import budget
from esrgan_deploy.errors import EsrganError, MachineError, MediaError, OptionError, OutputError
from esrgan_deploy.video import VideoOptions, probe, upscale_video
from esrgan_deploy.video.source.ledger import Ledger

TICK = Fraction(1, 25)
HEAD = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
END = "#EXT-X-ENDLIST\n"


def listed(*parts, end=END, tag=""):
    return HEAD + tag + "".join(f"#EXTINF:0.48,\n{part}\n" for part in parts) + end


@pytest.fixture
def part(tmp_path):
    return write_clip(tmp_path / "part.ts", range(0, 12 * 512, 512))


def refused(path, says, **options):
    with pytest.raises(MediaError, match=says) as caught:
        upscale_video(path, path.parent / "target.mkv", nearest(1), VideoOptions(**options))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (path.parent / "target.mkv").exists()


PLAYLISTS = {
    "itself": (listed("list.m3u8"), "is a list of other lists"),
    "itself, by another way": (listed("file:../{folder}/list.m3u8"), "is a list of other lists"),
    "a list": (
        listed("part.ts", "other.m3u8"),
        "is a list of other lists, .*; name one of those, for instance .*other.m3u8",
    ),
    "a list as a key": (
        listed("part.ts", tag='#EXT-X-KEY:METHOD=AES-128,URI="other.m3u8"\n'),
        "is a list of other lists",
    ),
    "variants": (
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nother.m3u8\n",
        "name one of those, for instance .*other.m3u8",
    ),
    "sound beside": (listed("part.ts", tag="#EXT-X-MEDIA:TYPE=AUDIO,URI=part.ts\n"), "is a list of other lists"),
    "no end": (listed("part.ts", end=""), "has no #EXT-X-ENDLIST, .*; add that line"),
    "an end in a comment": (listed("part.ts", end="# #EXT-X-ENDLIST\n"), "has no #EXT-X-ENDLIST"),
    "long parts": (listed("x" * 5000), "has a line of 5000 bytes, and FFmpeg reads 4000"),
    "long names": (listed("x" * 300), "leads to x+, which cannot be read: File name too long"),
    "many parts": (listed(*["part.ts"] * 50_001), "names more than 50000 parts"),
    "a device": (listed("/dev/zero"), "leads to /dev/zero, which is a device"),
    "a device, as a URL": (listed("file:/dev/zero"), "leads to file:/dev/zero, which is a device"),
    "a device, bare": (listed("part.ts", tag="#EXT-X-MAP:URI=/dev/zero\n"), "leads to /dev/zero, which is a device"),
    "a pipe": (listed("fifo"), "leads to fifo, which is a pipe"),
    "a folder": (listed("folder"), "leads to folder, which is a folder"),
    "data": (listed("data:text/plain,x"), "leads to data:text/plain,x, and only local files are opened"),
    "nothing there": (listed("gone.ts"), "leads to gone.ts, which is not there"),
    "another protocol": (listed("concat:part.ts|part.ts"), "leads to concat:part.ts|part.ts, and only local files"),
    "text": (listed("secret.txt"), "no video that FFmpeg can read"),
}


@pytest.mark.unix("makes a pipe")
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_that_is_refused(tmp_path, part, name):
    content, says = PLAYLISTS[name]
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.txt").write_text("a secret line\n" * 50)
    (tmp_path / "other.m3u8").write_text(listed("part.ts"))
    path = tmp_path / "list.m3u8"
    path.write_text(content.replace("{folder}", tmp_path.name))
    refused(path, says)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_playlist_of_local_parts(tmp_path, part, ends):
    data, middle = part.read_bytes(), part.stat().st_size // 376 * 188
    (tmp_path / "sub folder").mkdir()
    (tmp_path / "sub folder" / "b.ts").write_bytes(data[middle:])
    part.write_bytes(data[:middle])
    path = tmp_path / "list.m3u8"
    path.write_bytes(listed("part.ts", "sub folder/b.ts").replace("\n", ends).encode())
    upscale_video(path, tmp_path / "target.mkv", nearest(1))
    assert len(times(tmp_path / "target.mkv")) == 12


def test_damage_inside_a_part_is_noticed(tmp_path):
    """The messages of the format inside count, too."""
    part = write_clip(tmp_path / "part.ts", range(0, 40 * 512, 512), options={"g": "10", "qp": "5"})
    data = part.read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    del packets[len(packets) // 2]
    part.write_bytes(b"".join(packets))
    path = tmp_path / "list.m3u8"
    path.write_text(listed("part.ts"))
    with pytest.raises(MediaError, match=r"is cut off or damaged after frame .*Continuity check failed"):
        upscale_video(path, tmp_path / "target.mkv", nearest(1))


TEXTS = {
    "secret.txt": "a secret line\n" * 50,
    "titles.ass": "[Script Info]\nTitle: x\n[Events]\n",
    "titles.srt": "1\n00:00:00,100 --> 00:00:00,500\nFirst line\n\n",
    "list.ffconcat": "ffconcat version 1.0\nfile one.mp4\nfile two.mp4\n",
    "text.ffconcat": "ffconcat version 1.0\nfile secret.txt\n",
    "itself.ffconcat": "ffconcat version 1.0\nfile itself.ffconcat\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"></MPD>\n',
    "chapters.ffmeta": ";FFMETADATA1\ntitle=x\n",
    "a.svg": '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_no_clip(tmp_path, name):
    for written, content in TEXTS.items():
        (tmp_path / written).write_text(content)
    for clip in ("one.mp4", "two.mp4"):
        write_clip(tmp_path / clip)
    refused(tmp_path / name, "is of FFmpeg's format|is a list of other files|no video that FFmpeg can read")


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is the remedy")
def test_the_remedy_for_a_list_of_clips(tmp_path):
    for clip in ("one.mp4", "two.mp4"):
        write_clip(tmp_path / clip)
    path = tmp_path / "list.ffconcat"
    path.write_text(TEXTS["list.ffconcat"])
    with pytest.raises(MediaError) as caught:
        probe(path)
    command = str(caught.value).partition("make one clip of them: ")[2]
    subprocess.run(f"{command} -v error", shell=True, check=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert len(times(tmp_path / "new.mkv")) == 24


def test_another_format_by_its_name(tmp_path):
    path = tmp_path / "picture.qoi"
    with av.open(str(path), "w", format="image2", container_options={"update": "1"}) as out:
        stream = out.add_stream("qoi", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb24"
        out.mux(stream.encode(av.VideoFrame(32, 16, "rgb24")))
        out.mux(stream.encode(None))
    refused(path, r"is of FFmpeg's format qoi_pipe, .*; add --format qoi_pipe")
    options = VideoOptions(media_format="qoi_pipe")
    upscale_video(path, tmp_path / "target.mkv", nearest(1), options)
    assert len(times(tmp_path / "target.mkv")) == 1


@pytest.mark.parametrize("name", ["nosuch", "concat", "dash", "lavfi", "image2", "mp4,concat", "\x1b[2J", ""])
def test_formats_that_are_none(tmp_path, name):
    source = write_clip(tmp_path / "in.mp4")
    with pytest.raises(OptionError, match=r"^format '"):
        upscale_video(source, tmp_path / "target.mkv", nearest(1), VideoOptions(media_format=name))
    with pytest.raises(OptionError, match=r"^format '"):
        probe(source, media_format=name)


@pytest.mark.unix("makes a pipe")
def test_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    refused(tmp_path / "fifo.mp4", "is a pipe; name a file")
    refused(tmp_path / "zero.mp4", "is a device; name a file")
    (tmp_path / "link.mp4").symlink_to(write_clip(tmp_path / "in.mp4"))
    assert probe(tmp_path / "link.mp4").path == Path(tmp_path / "link.mp4")


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    """Forty frames, a key frame every ten, pictures that need bytes."""
    folder = tmp_path_factory.mktemp("long")

    def draw(index, size):
        return yuv_frame(np.random.default_rng(index).integers(40, 200, size), 128, 128)

    def make(name, **more):
        options = {"bf": "2", "g": "10", **more.pop("options", {})}
        path = folder / name
        return (
            path if path.exists() else write_clip(path, range(40), time_base=TICK, draw=draw, options=options, **more)
        )

    return make


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("name", ["a.ts", "a.avi", "a.mp4", "a.mkv"])
def test_a_zeroed_tail_loses_no_frame_without_a_word(long_clips, tmp_path, name, share):
    whole = long_clips(name, **({"options": {"bf": "0"}} if name == "a.avi" else {}))
    data = whole.read_bytes()
    source, target = tmp_path / name, tmp_path / "target.mkv"
    zeros = round(len(data) * share)
    source.write_bytes(data[:-zeros] + bytes(zeros))
    with pytest.raises(MediaError, match=r"is cut off or damaged after|FFmpeg can read|cannot be decoded"):
        upscale_video(source, target, nearest(1), VideoOptions(segment_frames=7))
    if target.exists():
        kept = times(target)[:-2]  # some are decoded before those that are shown first
        assert kept == [n * TICK for n in range(len(kept))]


@pytest.mark.parametrize("by_number", [False, True])
@pytest.mark.parametrize("left_out", [12, 13, 39])
def test_frames_that_the_decoder_leaves_out_are_missed(long_clips, left_out, by_number):
    """A decoder that gets one packet less than it should; what it gives before the gap is right."""
    path = long_clips("b.mkv", codec="ffv1", options={"bf": "0"})
    ledger, came = Ledger(probe(path), by_number=by_number, from_start=True), []
    with pytest.raises(av.InvalidDataError, match="a frame is missing"), av.open(str(path)) as clip:
        for number, packet in enumerate(clip.demux(video=0)):
            ledger.sent(packet)
            for frame in packet.decode() if number != left_out else ():
                ledger.came(frame)
                came.append(frame)
        ledger.ended()
    assert len(came) == (39 if by_number else left_out)


def test_a_recording_that_begins_in_the_middle(long_clips, tmp_path, caplog):
    """What nobody could decode is left out, and said."""
    data = long_clips("a.ts").read_bytes()
    source, target = tmp_path / "in.ts", tmp_path / "target.mkv"
    with av.open(str(long_clips("a.ts"))) as clip:
        start = [packet.pos for packet in clip.demux(video=0) if packet.size][3]
    source.write_bytes(data[:564] + data[start:])
    upscale_video(source, target, nearest(1))
    assert 29 <= len(times(target)) <= 31
    assert "FFmpeg leaves out its first" in caplog.text


@pytest.mark.parametrize(
    ("name", "more"),
    [
        (
            "vp8.mkv",
            {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "7"}},
        ),
        ("vp9.mkv", {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
        ("still.avi", {"codec": "mpeg4", "options": {"bf": "0"}}),
    ],
)
def test_packets_without_a_frame_of_their_own_are_no_loss(long_clips, tmp_path, name, more):
    upscale_video(long_clips(name, **more), tmp_path / "target.mkv", nearest(1), VideoOptions(segment_frames=7))
    assert len(times(tmp_path / "target.mkv")) == 40


@pytest.fixture
def one_gigabyte():
    budget.set_memory_limit(1 << 30)
    yield
    budget.set_memory_limit(None)


@pytest.mark.usefixtures("one_gigabyte")
def test_sizes_that_fit_into_no_memory(tmp_path):
    """By the header, before a frame is decoded; and by what the network makes of it."""
    gif = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;"
    (tmp_path / "in.gif").write_bytes(gif)
    with pytest.raises(
        (MachineError, MediaError), match=r"decoding frames of 65535x65535 needs 24\.0 GiB|cannot be decoded"
    ):
        probe(tmp_path / "in.gif")
    (tmp_path / "in.y4m").write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1\nFRAME\n" + bytes(1000))
    with pytest.raises((MachineError, MediaError), match=r"needs 20\.1 GiB|cannot be read|FFmpeg can read"):
        probe(tmp_path / "in.y4m")
    source = write_clip(
        tmp_path / "in.mp4", size=(1024, 1024), draw=lambda _, size: yuv_frame(np.zeros(size), 128, 128)
    )
    with pytest.raises(MachineError, match=r"upscaling frames of 1024x1024 to 16384x16384 needs 4\.0 GiB of memory"):
        upscale_video(source, tmp_path / "target.mkv", nearest(16), VideoOptions(codec="h265"))


def test_a_frame_that_grows_beyond_all_bounds(tmp_path):
    """The second frame has 400 times the pixels of the first: it is refused by the decoder, not decoded first."""
    small, large = (write_clip(tmp_path / f"{side}.mkv", [0], codec="mjpeg", pixel_format="yuvj420p", size=(side, side),
                               draw=lambda _, size: yuv_frame(np.zeros(size), 128, 128).reformat(format="yuvj420p"))
                    for side in (256, 5120))  # fmt: skip
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        for number, path in enumerate((small, large)):
            with av.open(str(path)) as clip:
                if not number:
                    stream = out.add_stream_from_template(clip.streams.video[0])
                packet = next(clip.demux(video=0))
                packet.stream, packet.pts, packet.dts = stream, number * 40, number * 40
                out.mux(packet)
    with pytest.raises(MediaError, match=r"is cut off or damaged after frame 1 .*holds the 1 frames before that"):
        upscale_video(tmp_path / "in.mkv", tmp_path / "target.mkv", nearest(1))


def test_sound_of_a_codec_that_nobody_knows(tmp_path):
    source = write_clip(tmp_path / "in.mkv", sounds=[(0, 0.4)])
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(EsrganError, match=r"its stream 1 \(audio, of an unknown codec\) does not fit into mov"):
        upscale_video(source, tmp_path / "target.mov", nearest(1))


def test_sound_that_no_muxer_takes(tmp_path):
    """Every packet of AAC in a transport stream has a header of its own; one of them is damaged."""
    source = write_clip(tmp_path / "in.ts", sounds=[(0, 0.4)])
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as clip:
        sound = [bytes(packet)[:12] for packet in clip.demux(audio=0) if packet.size]
    place = data.index(sound[8])
    data[place + 1] ^= 0x02  # the layer is always 0
    source.write_bytes(data)
    with contextlib.suppress(MediaError):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))


@pytest.mark.parametrize("fragmented", [False, True])
def test_an_index_of_more_samples_than_bytes(tmp_path, fragmented):
    """FFmpeg would make room for each of them: 70 bytes a sample, from a file of a few thousand bytes."""
    flags = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    source = write_clip(tmp_path / "in.mp4", container_options=flags)
    assert probe(source).frames or fragmented
    data = bytearray(source.read_bytes())
    place = data.rindex(b"trun") + 8 if fragmented else data.index(b"stsz") + 8
    data[place : place + 8] = struct.pack(">I", 10**8) + data[place + 4 : place + 8]
    if not fragmented:
        data[place : place + 8] = struct.pack(">II", 1, 10**8)
    source.write_bytes(data)
    refused(source, rf"its index claims 100000000 samples, and the file has {len(data)} bytes")


def test_sound_whose_header_is_damaged(tmp_path):
    """Vorbis in Matroska: the muxer refuses what it should copy, with "Operation not permitted"."""
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        sound = out.add_stream("vorbis", rate=48000, layout="stereo", options={"strict": "-2"})
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4800), np.float32), "fltp", "stereo")
        frame.rate = 48000
        out.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux([*sound.encode(frame), *sound.encode(None), *video.encode(None)])
    data = bytearray(source.read_bytes())
    place = data.index(b"\1vorbis")
    data[place - 3 : place] = b"\xff\xff\xff"  # the lengths of its three parts
    source.write_bytes(data)
    with pytest.raises(OutputError, match=r"beside the video \(audio\) cannot be written: .*-map 0:0 -c copy new.mkv"):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))


def test_times_that_mp4_cannot_say(tmp_path):
    source = write_clip(tmp_path / "in.mkv", [0, 40, 80, 2**44], time_base=Fraction(1, 1000), codec="ffv1")
    with pytest.raises(MediaError, match=r"its packets do not fit into mp4: .*; write .mkv, "):
        upscale_video(source, tmp_path / "target.mp4", nearest(1))
    upscale_video(source, tmp_path / "target.mkv", nearest(1))
    assert times(tmp_path / "target.mkv") == times(source)


def test_an_avi_whose_index_was_overwritten(tmp_path):
    """Without it FFmpeg finds the frames by their names, and leaves out those whose names are gone as well."""
    source = write_clip(tmp_path / "in.avi", options={"bf": "0"}, pts=range(12), time_base=TICK)
    data = bytearray(source.read_bytes())
    index = data.rindex(b"idx1")
    place = data.rindex(b"00dc", 0, index)
    data[place : index + 100] = b"U" * (index + 100 - place)
    source.write_bytes(data)
    with pytest.raises(MediaError, match=r"is cut off or damaged after frame 11 .*the index that its header states"):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program makes the clip")
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_an_ogg_that_is_cut(tmp_path, share):
    whole, source = tmp_path / "whole.ogv", tmp_path / "in.ogv"
    picture = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=2", "-c:v", "libtheora", "-g", "8"]
    subprocess.run(["ffmpeg", "-v", "error", *picture, str(whole)], check=True, stdin=subprocess.DEVNULL)
    upscale_video(whole, tmp_path / "target.mkv", nearest(1))
    assert len(times(tmp_path / "target.mkv")) > 40  # some are repeated by packets without content
    source.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * share)])
    with pytest.raises(MediaError, match=r"is cut off or damaged after frame \d+ .*its last page is not the end"):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program makes the clip")
def test_an_ogg_with_a_page_that_is_damaged(tmp_path):
    """FFmpeg leaves the page out, and says so while it opens a file as short as this one."""
    source = tmp_path / "in.ogv"
    picture = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1", "-c:v", "libtheora", "-g", "8"]
    subprocess.run(["ffmpeg", "-v", "error", *picture, str(source)], check=True, stdin=subprocess.DEVNULL)
    data = bytearray(source.read_bytes())
    data[data.rindex(b"OggS") - 20] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(MediaError, match=r"is cut off or damaged after frame \d+ .*CRC mismatch"):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))
