"""What `probe` says of a clip, against ffprobe and against what the clip was made with."""

import json
import os
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from clips import TICKS, nearest, numbered, write_clip, yuv_frame
from esrgan_deploy.errors import MediaError, OutputError
from esrgan_deploy.video import CODECS, probe, upscale_video
from esrgan_deploy.video.info import Colour, MasteringDisplay, StaticHdr
from esrgan_deploy.video.output.encode import default_codec, output_pixel_format
from esrgan_deploy.video.output.hdr import with_hdr
from esrgan_deploy.video.source.hdr import parse_static_hdr
from esrgan_deploy.video.source.scan import scan_packets

BUNNY = Path(__file__).parent.parent / "data" / "bigbuckbunny.mp4"
SHARED = Path(os.environ.get("ESRGAN_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "clips"
needs_ffprobe = pytest.mark.skipif(not shutil.which("ffprobe"), reason="the oracle, ffprobe, is not installed")


@needs_ffprobe
@pytest.mark.parametrize("path", [BUNNY, SHARED / "carphone_pristine.mp4"], ids=lambda path: path.stem)
def test_a_real_clip_is_described_as_ffprobe_does(path):
    if not path.exists():
        pytest.skip("the shared clips are not here")
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_streams", "-of", "json", path]
    truth = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"][0]
    info = probe(path)
    assert (info.width, info.height, info.pixel_format) == (truth["width"], truth["height"], truth["pix_fmt"])
    assert (info.codec, info.frames) == (truth["codec_name"], int(truth["nb_read_frames"]))
    assert info.frame_rate == Fraction(truth["avg_frame_rate"])
    assert info.time_base == Fraction(truth["time_base"])
    assert info.duration_s == pytest.approx(float(truth["duration"]), abs=1e-3)
    assert info.sample_aspect == Fraction(truth.get("sample_aspect_ratio", "1:1").replace(":", "/"))
    assert len(scan_packets(info).times) == info.frames


def test_tags_of_the_bundled_clip():
    info = probe(BUNNY)
    assert info.colour == Colour(matrix=1, full_range=False, primaries=1, transfer=1)
    assert (info.rotation, info.display_matrix, info.others) == (0, None, ("audio",))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_tags_are_read(tmp_path, suffix):
    tags = {
        "colorspace": 6,
        "color_range": 2,
        "color_primaries": 5,
        "color_trc": 4,
        "sample_aspect_ratio": Fraction(16, 11),
    }
    info = probe(write_clip(tmp_path / f"tagged{suffix}", tags=tags, rotation=90))
    assert info.colour == Colour(matrix=6, full_range=True, primaries=5, transfer=4)
    assert info.sample_aspect == Fraction(16, 11)
    assert info.rotation == 90
    assert len(info.display_matrix) == 9


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    write_clip(tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe(Path("concat:a.mp4")).frames == 12
    upscale_video(Path("concat:a.mp4"), Path("tcp:b.mp4"), nearest(1))
    assert probe(Path("tcp:b.mp4")).frames == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tags": {"colorspace": 8}}, "colour matrix 8.*knows 1, 4, 5, 6, 7, 9.*zscale=matrix=709 -colorspace bt709"),
        ({"tags": {"colorspace": 10, "color_primaries": 9}}, "matrix 10.*zscale=matrix=2020_ncl -colorspace bt2020nc"),
        ({"options": {"x264-params": "tff=1"}}, "interlaced.*--deinterlace"),
        ({"codec": "ffv1", "pixel_format": "yuva420p"}, "alpha channel"),
        ({"codec": "ffv1", "pixel_format": "yuv422p16le"}, "more than 12 bits.*-pix_fmt yuv422p12le -c:v libx265"),
        ({"codec": "ffv1", "pixel_format": "gray14le"}, "more than 12 bits"),
    ],
    ids=["YCgCo", "BT.2020 CL", "interlaced", "alpha", "16 bit", "14 bit grey"],
)
def test_what_would_be_damaged_is_refused_with_a_remedy(tmp_path, arguments, says):
    path = write_clip(tmp_path / "clip.mkv", **{"options": {"preset": "fast"}, **arguments})
    with pytest.raises(MediaError, match=says) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("location", ["left", "topleft", "center", "top"])
def test_the_place_of_chroma_is_read(tmp_path, suffix, location):
    path = write_clip(tmp_path / f"clip{suffix}", options={"chroma_sample_location": location})
    assert probe(path).chroma_location == location


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "location"),
    [
        ("libx264", "yuv420p", ".mp4", "left"),
        ("mpeg1video", "yuv420p", ".mpg", "center"),
        ("mjpeg", "yuvj420p", ".avi", "center"),
        ("ffv1", "yuv420p", ".avi", "left"),
    ],
)
def test_the_place_of_chroma_when_nothing_is_said(tmp_path, codec, pixel_format, suffix, location):
    source = partial(converted, pixel_format=pixel_format)
    arguments = {
        "pts": range(12),
        "time_base": Fraction(1, 25),
        "options": {"preset": ""} if codec == "libx264" else {},
    }
    path = write_clip(tmp_path / f"clip{suffix}", codec=codec, pixel_format=pixel_format, draw=source, **arguments)
    assert probe(path).chroma_location == location


def converted(index, size, pixel_format):
    return numbered(index, size).reformat(format=pixel_format)


@pytest.mark.parametrize(
    ("pixel_format", "bits", "full"),
    [
        ("yuv420p10le", 10, False),
        ("yuv444p12le", 12, False),
        ("gray", 8, True),
        ("gray10le", 10, True),
        ("bgr0", 8, True),
    ],
)
def test_depth_and_range(tmp_path, pixel_format, bits, full):
    draw = partial(converted, pixel_format=pixel_format)
    info = probe(write_clip(tmp_path / "clip.mkv", codec="ffv1", pixel_format=pixel_format, draw=draw))
    assert (info.pixel_format, info.bits, info.colour.full_range) == (pixel_format, bits, full)


MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_hdr_is_described(tmp_path, transfer):
    path = write_clip(
        tmp_path / "hdr.mkv",
        codec="libx265",
        pixel_format="yuv420p10le",
        draw=partial(converted, pixel_format="yuv420p10le"),
        options={"x265-params": f"log-level=none:master-display={MASTERING}:max-cll=1000,400"},
        tags={"color_trc": transfer, "color_primaries": 9, "colorspace": 9},
    )
    info = probe(path)
    assert info.colour == Colour(matrix=9, full_range=False, primaries=9, transfer=transfer)
    assert info.hdr.light == (1000, 400)
    assert (info.hdr.display.min_luminance, info.hdr.display.max_luminance) == (Fraction(1, 200), 1000)
    red, green, blue, white = info.hdr.display.primaries
    assert (red, green) == ((Fraction("0.68"), Fraction("0.32")), (Fraction("0.265"), Fraction("0.69")))
    assert (blue, white) == ((Fraction("0.15"), Fraction("0.06")), (Fraction("0.3127"), Fraction("0.329")))
    assert probe(BUNNY).hdr is None


@needs_ffprobe
@pytest.mark.parametrize(("codec", "tolerance"), [("libx264", 0), ("libx265", 0), ("libsvtav1", 2e-5)])
@pytest.mark.parametrize("light", [(1000, 400), None])
def test_hdr_is_written_as_it_was_read(tmp_path, codec, tolerance, light):
    xy = ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), (0.3127, 0.329))
    primaries = tuple((Fraction(str(x)), Fraction(str(y))) for x, y in xy)
    hdr = StaticHdr(MasteringDisplay(primaries, Fraction("0.005"), Fraction(4000)), light)
    own = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_clip(
        tmp_path / "hdr.mkv",
        codec=codec,
        pixel_format="yuv420p10le",
        draw=partial(converted, pixel_format="yuv420p10le"),
        options=with_hdr(codec, {"preset": "10" if codec == "libsvtav1" else "ultrafast", **own}, hdr),
        tags={"color_trc": 16, "color_primaries": 9, "colorspace": 9},
    )
    read = probe(path).hdr
    assert read.light == light
    close = partial(pytest.approx, abs=tolerance)
    assert [float(value) for pair in read.display.primaries for value in pair] == close(
        [v for pair in xy for v in pair]
    )
    assert float(read.display.max_luminance) == 4000
    assert float(read.display.min_luminance) == pytest.approx(0.005, abs=4 * tolerance)
    if codec != "libx264":  # which older versions of ffprobe do not look for
        command = ["ffprobe", "-v", "error", "-show_frames", "-read_intervals", "%+#1", "-of", "json", path]
        frame = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["frames"][0]
        said = {data["side_data_type"]: data for data in frame["side_data_list"]}
        assert float(Fraction(said["Mastering display metadata"]["green_y"])) == close(0.797)
        assert float(Fraction(said["Mastering display metadata"]["max_luminance"])) == 4000
        if light:
            assert said["Content light level metadata"]["max_content"] == 1000


def test_half_a_mastering_display_is_none():
    whole = struct.pack("@20i2i", *[1, 2] * 10, 1, 1)
    assert parse_static_hdr(whole, None).display.max_luminance == Fraction(1, 2)
    assert parse_static_hdr(struct.pack("@20i2i", *[0, 1] * 10, 0, 1), None) is None
    assert parse_static_hdr(struct.pack("@20i2i", *[0, 0] * 10, 1, 1), struct.pack("@2I", 5, 0)) == StaticHdr(
        None, (5, 0)
    )
    assert parse_static_hdr(None, struct.pack("@2I", 0, 0)) is None, "which means unknown"
    assert with_hdr("libx264", {"crf": "1"}, None) == {"crf": "1"}


@pytest.mark.parametrize(
    ("source", "codec", "size", "expected"),
    [
        ("yuv420p", "h264", (48, 64), "yuv420p"),
        ("yuvj420p", "h264", (48, 64), "yuv420p"),
        ("yuv422p10le", "h264", (48, 64), "yuv422p10le"),
        ("yuv444p12le", "h265", (48, 64), "yuv444p12le"),
        ("yuv420p9le", "av1", (48, 64), "yuv420p10le"),
        ("p010le", "av1", (49, 65), "yuv420p10le"),
        ("yuv420p", "h264", (49, 64), "yuv444p"),
        ("yuv422p", "h264", (49, 64), "yuv422p"),
        ("yuv422p", "h265", (48, 65), "yuv444p"),
        ("yuv411p", "h265", (48, 64), "yuv444p"),
        ("gbrp12le", "h265", (48, 64), "yuv420p12le"),
        ("pal8", "av1", (48, 64), "yuv420p"),
        ("gray10le", "h264", (48, 64), "yuv420p10le"),
        ("yuv420p12le", "h264", (48, 64), "h265"),
        ("yuv422p", "av1", (48, 64), "h264 or h265"),
        ("yuv420p12le", "av1", (48, 64), "h265"),
    ],
)
def test_the_output_keeps_depth_and_subsampling(source, codec, size, expected):
    info = replace(probe(BUNNY), pixel_format=source)
    if expected.startswith("yuv"):
        assert output_pixel_format(info, codec, *size) == expected
        assert expected in [layout.name for layout in av.Codec(CODECS[codec].encoder, "w").video_formats]
        assert default_codec(info) == ("h264" if expected[-2:] != "le" else "h265")
    else:
        with pytest.raises(OutputError, match=f"which {codec} cannot hold.*choose the codec {expected}$"):
            output_pixel_format(info, codec, *size)


def test_two_video_streams_and_none_are_refused(tmp_path):
    both, sound = tmp_path / "both.mkv", tmp_path / "sound.mkv"
    with av.open(str(both), "w") as out:
        streams = [out.add_stream("libx264", rate=25, width=64, height=48, time_base=TICKS) for _ in range(2)]
        for stream in streams:
            frame = yuv_frame(np.full((48, 64), 90), 128, 128)
            frame.pts, frame.time_base = 0, TICKS
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"2 video streams.*--stream 0 or 1"):
        probe(both)
    with pytest.raises(MediaError, match="no video, only audio"):
        probe(sound)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("zero.mp4", b"", "is empty"),
        ("text.mp4", b"not a clip\n" * 50, "no video that FFmpeg can read"),
        ("missing.mp4", None, "no such file"),
    ],
)
def test_files_that_are_no_clips(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=says):
        probe(tmp_path / name)
    with pytest.raises(MediaError, match="is a folder"):
        probe(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_clip_cut_in_the_middle_is_noticed_without_decoding(tmp_path, suffix, share):
    whole = write_clip(
        tmp_path / f"whole{suffix}",
        pts=range(100),
        time_base=Fraction(1, 20),
        rate=20,
        draw=lambda index, size: yuv_frame(np.random.default_rng(index).integers(40, 200, size), 128, 128),
        options={"bf": "0", "g": "10"},
        container_options={"movflags": "+faststart"} if suffix == ".mp4" else {},
    )
    assert len(scan_packets(probe(whole)).times) == 100
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * share)])
    damage = str(scan_packets(probe(cut)).damage)
    assert re.search(r"cut off or damaged after frame \d+ \(\d\.\d\d s\)", damage)


def test_a_cut_between_two_packets_is_noticed_by_the_index(tmp_path):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write_clip(whole, options={"bf": "0"}, container_options={"movflags": "+faststart"})
    with av.open(str(whole)) as clip:
        starts = [packet.pos for packet in clip.demux(video=0) if packet.size]
    cut.write_bytes(whole.read_bytes()[: starts[7]])
    assert "after frame 7 (0.28 s): its index lists 12 frames" in str(scan_packets(probe(cut)).damage)


def test_an_mp4_without_its_index_is_refused(tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(BUNNY.read_bytes()[:100_000])
    with pytest.raises(MediaError, match="the end that holds its index is missing"):
        probe(cut)
