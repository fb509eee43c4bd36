"""What `probe` says of a clip, against ffprobe and against what the clip was made with."""

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import TICKS, nearest, picture, write_clip
from esrgan_deploy.errors import MediaError
from esrgan_deploy.video import probe, upscale_video
from esrgan_deploy.video.colour import Colour
from esrgan_deploy.video.probe import count_packets

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
    assert count_packets(info) == info.frames


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
        ({"pixel_format": "yuv420p10le"}, r"yuv420p10le, this version reads 8 bits.*-pix_fmt yuv420p"),
        ({"tags": {"color_trc": 16, "color_primaries": 9, "colorspace": 9}}, "HDR.*tone-map"),
        ({"tags": {"color_trc": 18, "color_primaries": 9, "colorspace": 9}}, "HDR.*tone-map"),
        ({"tags": {"colorspace": 9}}, "colour matrix 9.*out_color_matrix=bt709"),
        ({"options": {"x264-params": "tff=1"}}, "interlaced.*bwdif"),
        ({"codec": "ffv1", "pixel_format": "yuva420p"}, "alpha channel"),
        ({"codec": "ffv1", "pixel_format": "gray"}, "gray, which is neither YUV nor RGB"),
    ],
    ids=["10 bit", "PQ", "HLG", "BT.2020", "interlaced", "alpha", "gray"],
)
def test_what_would_be_damaged_is_refused_with_a_remedy(tmp_path, arguments, says):
    path = write_clip(tmp_path / "clip.mkv", **{"options": {"preset": "fast"}, **arguments})
    with pytest.raises(MediaError, match=says) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_two_video_streams_and_none_are_refused(tmp_path):
    both, sound = tmp_path / "both.mkv", tmp_path / "sound.mkv"
    with av.open(str(both), "w") as out:
        streams = [out.add_stream("libx264", rate=25, width=64, height=48, time_base=TICKS) for _ in range(2)]
        for stream in streams:
            frame = picture(np.full((48, 64), 90), 128, 128)
            frame.pts, frame.time_base = 0, TICKS
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"2 video streams.*-map 0:v:0"):
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
        draw=lambda index, size: picture(np.random.default_rng(index).integers(40, 200, size), 128, 128),
        options={"bf": "0", "g": "10"},
        container_options={"movflags": "+faststart"} if suffix == ".mp4" else {},
    )
    assert count_packets(probe(whole)) == 100
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * share)])
    info = probe(cut)
    with pytest.raises(MediaError, match=r"cut off or damaged after frame \d+ \(\d\.\d\d s\).*-c copy new.mkv"):
        count_packets(info)


def test_a_cut_between_two_packets_is_noticed_by_the_index(tmp_path):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write_clip(whole, options={"bf": "0"}, container_options={"movflags": "+faststart"})
    with av.open(str(whole)) as clip:
        starts = [packet.pos for packet in clip.demux(video=0) if packet.size]
    cut.write_bytes(whole.read_bytes()[: starts[7]])
    with pytest.raises(MediaError, match=r"after frame 7 \(0\.28 s\): its index lists 12 frames"):
        count_packets(probe(cut))


def test_an_mp4_without_its_index_is_refused(tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(BUNNY.read_bytes()[:100_000])
    with pytest.raises(MediaError, match="the end that holds its index is missing"):
        probe(cut)
