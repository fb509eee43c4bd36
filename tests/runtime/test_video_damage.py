"""Clips that are damaged, and clips that cannot be upscaled without harm: what comes out, and what the message says."""

import re
import struct

import av
import pytest

from clips import nearest
from described import described, ffprobe
from esrgan_deploy.errors import EsrganError, MediaError
from esrgan_deploy.video import VideoOptions, upscale_video
from odd_clips import make_clip, needs_programs

pytestmark = needs_programs

CUT = ["faststart.mp4", "fragmented.mp4", "h264.mkv", "vp9.webm", "h264.ts", "mpeg4.avi", "h264.flv", "raw.h264"]


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "odd"
    folder.mkdir(exist_ok=True)
    return lambda name: make_clip(name, folder)


def upscale(source, **options):
    """Upscale to the same size, in small segments; the error, and the target."""
    target = source.with_name("target.mkv")
    with pytest.raises(MediaError) as caught:
        upscale_video(source, target, nearest(1), VideoOptions(segment_frames=7, **options))
    assert [path.name for path in source.parent.iterdir() if path not in (source, target)] == []
    return str(caught.value), target


def check(message, source, target, frames):
    """The message names the source, the place and where the frames are that were kept."""
    place = rf"{re.escape(str(source))}: is cut off or damaged after frame \d+ \(\d+\.\d\d s\): .+"
    advice = r"; get a whole copy, or one that hides it: ffmpeg -i .*new\.mkv; "
    assert re.fullmatch(rf"{place}{advice}{re.escape(str(target))} holds the {frames} frames before that", message)


@pytest.mark.parametrize("share", [0.6, 0.9])
@pytest.mark.parametrize("name", CUT)
def test_a_clip_cut_off_keeps_all_that_can_be_decoded(odd, tmp_path, name, share):
    whole, source = odd(name), tmp_path / f"cut{odd(name).suffix}"
    source.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    message, target = upscale(source)
    kept, left = described(target), described(source)
    # Decoders may paint over what is missing in the last frame, and call that a frame.
    assert left["frames"] - 1 <= kept["frames"] <= left["frames"]
    check(message, source, target, kept["frames"])
    assert kept["packets"] == left["packets"]
    check_times(kept["times"], described(whole)["times"])


def check_times(kept, whole):
    """Nothing is missing in between, but among the last frames: some are decoded before those that are shown first."""
    if None not in whole:
        times = [pytest.approx(float(time - whole[0] + kept[0]), abs=0.0011) for time in whole]
        surely = len(kept) - 3
        assert kept[:surely] == times[:surely]
        assert all(time in times[surely:] for time in kept[surely:])


@pytest.mark.parametrize("name", [*CUT[:-1], "mpeg2.ts", "hevc.mkv", "av1.mp4"])
def test_bytes_overwritten_inside(odd, tmp_path, name):
    """All frames that are shown before the damage come out, none after it, whatever FFmpeg makes of the rest."""
    whole, source = odd(name), tmp_path / f"hole{odd(name).suffix}"
    data = bytearray(whole.read_bytes())
    place = places(whole)[12]
    data[place - 8 : place + 600] = b"\x55" * 608
    source.write_bytes(data)
    message, target = upscale(source)
    kept = described(target)
    check(message, source, target, kept["frames"])
    assert 7 <= kept["frames"] <= 13
    check_times(kept["times"], described(whole)["times"])


@pytest.mark.parametrize(("name", "deinterlace"), [("h264.mkv", False), ("fields.mkv", True)])
def test_a_key_frame_that_is_damaged(odd, tmp_path, name, deinterlace):
    """Every eighth frame is a key frame. The two GOPs before the third one come out whole, through the filter too."""
    data, source = bytearray(odd(name).read_bytes()), tmp_path / "hole.mkv"
    place = places(odd(name))[16] + 60
    data[place : place + 200] = b"\x55" * 200
    source.write_bytes(data)
    message, target = upscale(source, deinterlace=deinterlace)
    assert "is cut off or damaged after frame 16 (0.6" in message
    assert described(target)["times"] == described(odd(name))["times"][:16]


def places(path):
    """Where in the file the packets of the video are."""
    packets = [entry for entry in ffprobe(path)["packets_and_frames"] if entry["type"] == "packet"]
    return [int(packet["pos"]) for packet in packets if packet["codec_type"] == "video"]


def test_no_frame_at_all_leaves_nothing(odd, tmp_path):
    source = tmp_path / "cut.h264"
    source.write_bytes(odd("raw.h264").read_bytes()[:1200])
    message, target = upscale(source)
    assert message.endswith("no frame comes before that")
    assert not target.exists()


def test_an_index_without_frames(odd, tmp_path):
    source = tmp_path / "cut.mp4"
    source.write_bytes(odd("faststart.mp4").read_bytes()[: places(odd("faststart.mp4"))[0]])
    message, target = upscale(source)
    assert "without a single frame" in message
    assert not target.exists()


def test_a_size_that_changes(odd, tmp_path):
    source = tmp_path / "changes.h264"
    source.write_bytes(odd("raw.h264").read_bytes() + odd("small.h264").read_bytes())
    message, target = upscale(source)
    assert re.search(r"frame 24 is 32x32 yuv420p after 64x48 yuv420p; make it uniform: ffmpeg -i ", message)
    assert message.endswith(f"{target} holds the 24 frames before that")
    assert described(target)["frames"] == 24


REFUSED = {
    ("transparent.gif", ".mp4"): r"has an alpha channel .*; convert it: ffmpeg",
    ("wmv.wmv", ".mkv"): r"its stream 1 \(audio, wmav2\) does not fit into matroska; .*ffmpeg -i .* -c:1 flac new.mkv",
    ("drm.mp4", ".mp4"): r"is encrypted \(DRM\)",
    ("sound.mp4", ".mp4"): r"holds no video, only audio",
    ("no_frame.mp4", ".mp4"): r"holds nothing at all",
    ("two_pictures.mkv", ".mkv"): r"holds 2 video streams; choose one with --stream 0 or 1",
    ("fields.ts", ".mp4"): r"is interlaced, .*; add --deinterlace",
    ("fields.mkv", ".mkv"): r"is interlaced, .*; add --deinterlace",
    ("fields.mpg", ".mkv"): r"is interlaced, .*; add --deinterlace",
    ("srt.mkv", ".mp4"): r"its stream 1 \(subtitle, (srt|subrip)\) does not fit into mp4; write .mkv",
    ("font.mkv", ".mp4"): r"its stream 1 \(attachment, .*\) does not fit into mp4; write .mkv",
    ("mov_text.mp4", ".mkv"): r"its stream 2 \(subtitle, mov_text\) does not fit into matroska; write .mp4 or .mov",
}
"""(clip, format that is asked for) -> what the message says."""


@pytest.mark.parametrize(("name", "suffix"), REFUSED)
def test_what_is_refused_before_the_first_frame(odd, tmp_path, name, suffix):
    target = tmp_path / f"target{suffix}"
    frames = []
    with pytest.raises(EsrganError, match=REFUSED[name, suffix]) as caught:
        upscale_video(odd(name), target, nearest(1), progress=lambda done, _: frames.append(done))
    assert str(caught.value).startswith(str(odd(name)))
    assert "\n" not in str(caught.value)
    assert frames == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hidden_edges_are_not_brought_to_light(odd, tmp_path, suffix):
    """MP4's clean aperture of 48x40 in frames of 64x48; FFmpeg's copy in Matroska says the same by PixelCrop."""
    source = with_clean_aperture(odd("h264.mp4"), tmp_path / "hidden.mp4", 48, 40)
    if suffix == ".mkv":
        source = copied(source, tmp_path / "hidden.mkv")
    says = r"hides the edges of the frames \(top 4, bottom 4, left 8, right 8\).*: ffmpeg -i .* -vf crop=48:40:8:4 "
    with pytest.raises(MediaError, match=says):
        upscale_video(source, tmp_path / "target.mkv", nearest(1))


def with_clean_aperture(source, target, width, height):
    """Put a "clap" box (ISO 14496-12, 12.1.4) behind the decoder's header, and correct the lengths around it."""
    content = bytearray(source.read_bytes())
    box = struct.pack(">I4s8I", 40, b"clap", width, 1, height, 1, 0, 1, 0, 1)
    decoder = content.index(b"avcC") - 4
    end = decoder + int.from_bytes(content[decoder : decoder + 4], "big")
    content[end:end] = box
    around = [content.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    for place in (*around, around[-1] + 16):
        content[place : place + 4] = (int.from_bytes(content[place : place + 4], "big") + len(box)).to_bytes(4, "big")
    target.write_bytes(content)
    return target


def copied(source, target):
    """The video's packets in another container, written by the FFmpeg inside PyAV."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(clip.streams.video[0], opaque=True)
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return target


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{key}#EXTINF:0.96,\n{part}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("playlist", "says"),
    [
        ({"part": "http://127.0.0.1:9/a.ts"}, "leads to http://127.0.0.1:9/a.ts, .*; add --protocols http,tcp"),
        ({"part": "h264.ts", "key": '#EXT-X-KEY:METHOD=AES-128,URI="https://a.test/k"\n'}, "--protocols https,tls,tcp"),
        ({"part": "gone.ts"}, "leads to gone.ts, which is not there"),
    ],
)
def test_a_playlist_that_leads_elsewhere(odd, tmp_path, playlist, says):
    (tmp_path / "h264.ts").write_bytes(odd("h264.ts").read_bytes())
    path = tmp_path / "list.m3u8"
    path.write_text(PLAYLIST.format(**{"key": "", **playlist}))
    with pytest.raises(MediaError, match=says):
        upscale_video(path, tmp_path / "target.mkv", nearest(1))


def test_a_playlist_of_local_files(odd, tmp_path):
    (tmp_path / "h264.ts").write_bytes(odd("h264.ts").read_bytes())
    path = tmp_path / "list.m3u8"
    path.write_text(PLAYLIST.format(key="", part="h264.ts"))
    upscale_video(path, tmp_path / "target.mp4", nearest(1), VideoOptions(segment_frames=7))
    upscale_video(odd("h264.ts"), tmp_path / "direct.mp4", nearest(1), VideoOptions(segment_frames=7))
    assert described(tmp_path / "target.mp4") == described(tmp_path / "direct.mp4")


def test_the_other_of_two_videos_is_copied(odd, tmp_path):
    source, target = odd("two_pictures.mkv"), tmp_path / "target.mkv"
    upscale_video(source, target, nearest(2), VideoOptions(stream=1))
    sizes = [(stream["width"], stream["height"]) for stream in ffprobe(target)["streams"]]
    assert sorted(sizes) == [(64, 48), (128, 96)]
    assert described(target)["frames"] == described(source)["frames"] == 24
