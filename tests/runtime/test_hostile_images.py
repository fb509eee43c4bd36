"""Pictures that claim more than they hold, that are damaged where decoders conceal it, or that cannot be written."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from esrgan_deploy import MachineError, MediaError, OptionError, OutputError, Upscaler, budget, open_session
from esrgan_deploy.cli import upscale
from esrgan_deploy.images import StillImage, read_image, upscale_file, write_image
from esrgan_deploy.images.header import read_header
from esrgan_deploy.images.profile import is_whole_profile

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def rgb(rng):
    """With detail, so that a lossy file has many bytes."""
    return rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_limit_stays():
    yield
    budget.set_memory_limit(None)


def encoded(rgb, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def of_size(data, width, height):
    """The same file, whose head claims another size."""
    changed = bytearray(data)
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", changed, 16, width, height)
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    elif data.startswith(b"BM"):
        struct.pack_into("<ii", changed, 18, width, height)
    elif data.startswith(b"\xff\xd8"):
        struct.pack_into(">HH", changed, data.index(b"\xff\xc0") + 5, height, width)
    else:  # TIFF, little-endian
        begin = struct.unpack_from("<I", data, 4)[0]
        for index in range(struct.unpack_from("<H", data, begin)[0]):
            entry = begin + 2 + 12 * index
            for tag, value in ((256, width), (257, height), (278, height)):  # rows in a strip: all of them
                if struct.unpack_from("<H", data, entry)[0] == tag:
                    struct.pack_into("<HHII", changed, entry, tag, 4, 1, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("a.jpg", "JPEG", {}),
        ("a.png", "PNG", {}),
        ("a.bmp", "BMP", {}),
        ("a.tif", "TIFF", {}),
        ("b.tif", "TIFF", {"compression": "tiff_lzw"}),
        ("c.tif", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("d.tif", "TIFF", {"compression": "packbits"}),
    ],
)
def test_a_size_that_the_bytes_cannot_hold_is_refused_before_decoding(tmp_path, rgb, name, kind, options, monkeypatch):
    path = tmp_path / name
    path.write_bytes(of_size(encoded(rgb[:8, :8], kind, **options), 12000, 12000))
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(MediaError, match="too few bytes for the 12000x12000 pixels"):
        read_image(path)
    path.write_bytes(encoded(rgb, kind, **options))
    monkeypatch.undo()
    assert read_image(path).rgb.shape == rgb.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (9000, 1), (3000, 3000)])
def test_pictures_of_one_colour_and_odd_shapes_are_no_claims(tmp_path, kind, height, width):
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.full((height, width, 3), 77, np.uint8), kind, **options))
    assert read_image(path).rgb.shape == (height, width, 3)


def test_what_reading_takes_is_compared_with_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.zeros((2000, 2000, 3), np.uint8), "PNG"))
    budget.set_memory_limit(30 << 20)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(MachineError, match=r"a picture of 2000x2000 needs 35 MiB of memory, and 30 MiB is allowed"):
        read_image(path)


def test_what_the_whole_job_takes_is_compared_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.zeros((1000, 1000, 3), np.uint8), "PNG"))
    budget.set_memory_limit(100 << 20)
    assert read_image(path).rgb.shape == (1000, 1000, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    with Upscaler(open_session(None, "reference")) as upscaler, pytest.raises(MachineError, match="1000x1000"):
        upscale_file(path, tmp_path / "b.png", upscaler)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_jpeg_of_840_bytes_that_claims_a_hundred_megapixels(tmp_path, capfd):
    path = tmp_path / "a.jpg"
    path.write_bytes(of_size(encoded(np.zeros((8, 8, 3), np.uint8), "JPEG"), 10000, 10000))
    assert path.stat().st_size < 840
    assert upscale.main([str(path), "-o", str(tmp_path / "b.jpg"), "-b", "reference"]) == 2
    assert "10000x10000" in capfd.readouterr().err


def two_frame_headers(data):
    begin = data.index(b"\xff\xc0")
    length = struct.unpack_from(">H", data, begin + 2)[0]
    return data[:begin] + of_size(data, 9, 9)[begin : begin + 2 + length] + data[begin:]


def second_head(data):
    return data[:33] + of_size(data, 9, 9)[8:33] + data[33:]


def doubled_tag(data):
    """The last tag of a little-endian TIFF becomes a second width."""
    begin = struct.unpack_from("<I", data, 4)[0]
    last = begin + 2 + 12 * (struct.unpack_from("<H", data, begin)[0] - 1)
    return data[:last] + struct.pack("<HHII", 256, 4, 1, 9) + data[last + 12 :]


@pytest.mark.parametrize(
    ("kind", "damage", "words"),
    [
        ("JPEG", two_frame_headers, "one size"),
        ("PNG", second_head, "order"),
        ("TIFF", doubled_tag, "twice"),
        ("JPEG", lambda data: data[:20] + b"junk" + data[20:], "between the parts"),
        ("PNG", lambda data: data[:-8] + b"IEND" + b"\0\0\0\0", "checksum"),
        ("WEBP", lambda data: data[:-5], "damaged"),
        ("TIFF", lambda data: data[:-5], "damaged"),
    ],
)
def test_what_readers_would_take_for_different_pictures_is_refused(tmp_path, rgb, kind, damage, words):
    path = tmp_path / "a.png"
    path.write_bytes(damage(encoded(rgb, kind)))
    with pytest.raises(MediaError, match=words):
        read_image(path)


def cut_with_an_end(data):
    return data[: len(data) // 2] + b"\xff\xd9"


def zeroed(data):
    return data[: len(data) // 2] + bytes(300) + data[len(data) // 2 + 300 :]


@pytest.mark.parametrize(
    ("kind", "options", "damage"),
    [
        ("JPEG", {}, cut_with_an_end),
        ("JPEG", {"progressive": True}, cut_with_an_end),
        ("JPEG", {"restart_marker_blocks": 2}, lambda data: data.replace(b"\xff\xd3", b"\xff\xd5", 1)),
        ("TIFF", {"compression": "tiff_lzw"}, zeroed),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, zeroed),
    ],
)
def test_damage_that_decoders_conceal_is_refused_and_nothing_else_is_printed(
    tmp_path, rgb, kind, options, damage, capfd
):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(rgb, kind, **options))
    read_image(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MediaError, match="is damaged or truncated"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_padding_of_cameras_is_no_damage(tmp_path, rgb):
    path = tmp_path / "a.jpg"
    data = encoded(rgb, "JPEG")
    path.write_bytes(data[:-2] + bytes(6) + data[-2:])
    assert read_image(path).rgb.shape == rgb.shape
    path.write_bytes(data[:-2] + bytes(60) + data[-2:])
    with pytest.raises(MediaError, match="extraneous"):
        read_image(path)


def test_tags_of_exif_that_are_no_numbers_are_ignored(tmp_path, rgb):
    six = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, 2, 4) + b"six\0" + bytes(4)
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=six)
    assert read_image(tmp_path / "a.png").rgb.shape == rgb.shape


def test_other_formats_are_not_even_tried(tmp_path, rgb):
    for kind in ("GIF", "PPM", "TGA", "JPEG2000"):
        (tmp_path / "a.png").write_bytes(encoded(rgb, kind))
        with pytest.raises(MediaError, match="no picture that can be read"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("tag", [256, 257])
def test_tiff_without_dimensions(tmp_path, rgb, tag):
    data = encoded(rgb, "TIFF")
    begin = struct.unpack_from("<I", data, 4)[0] + 2
    entry = next(e for e in range(begin, begin + 200, 12) if struct.unpack_from("<H", data, e)[0] == tag)
    (tmp_path / "a.tif").write_bytes(data[:entry] + struct.pack("<H", 65000) + data[entry + 2 :])
    with pytest.raises(MediaError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


def test_separate_planes_of_a_tiff_are_refused_by_what_they_are(tmp_path, rgb):
    data = encoded(rgb, "TIFF")
    begin = struct.unpack_from("<I", data, 4)[0] + 2
    entry = next(e for e in range(begin, begin + 200, 12) if struct.unpack_from("<H", data, e)[0] == 284)
    (tmp_path / "a.tif").write_bytes(data[: entry + 8] + struct.pack("<I", 2) + data[entry + 12 :])
    with pytest.raises(MediaError, match="separate planes"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("damage", "whole"),
    [
        (lambda p: p, True),
        (lambda p: p[:100], False),
        (lambda p: p + b"\0", False),
        (lambda p: p[:36] + b"ascp" + p[40:], False),
        (lambda p: p[:12] + b"link" + p[16:], False),
        (lambda p: p[:20] + b"CMYK" + p[24:], False),
        (lambda p: p[:64] + b"\xff" + p[65:], False),
        (lambda p: p[:128] + b"\0\xff\xff\xff" + p[132:], False),
        (lambda p: p[:136] + b"\xff\xff\xff\xff" + p[140:], False),
        (lambda p: (len(p) + 1).to_bytes(4, "big") + p[4:8] + b"\x04" + p[9:] + b"\0", False),
    ],
)
def test_a_profile_that_encoders_would_refuse_is_left_out(tmp_path, rgb, damage, whole, capfd):
    profile = damage(SRGB)
    assert is_whole_profile(profile) == whole
    path = tmp_path / "a.jpg"
    Image.fromarray(rgb).save(path, icc_profile=profile)
    still = read_image(path)
    assert still.icc_profile == (profile if whole else None)
    write_image(tmp_path / "b.png", still)
    assert capfd.readouterr().err == ""


def test_a_profile_longer_than_a_segment_of_a_jpeg_is_kept(tmp_path, rgb):
    profile = SRGB + bytes(150_000 - len(SRGB))
    profile = len(profile).to_bytes(4, "big") + profile[4:]
    Image.fromarray(rgb).save(tmp_path / "a.jpg", icc_profile=profile)
    write_image(tmp_path / "b.jpg", read_image(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.info["icc_profile"] == profile
    np.testing.assert_array_equal(
        read_image(tmp_path / "b.jpg").rgb, cv2.cvtColor(cv2.imread(str(tmp_path / "b.jpg")), cv2.COLOR_BGR2RGB)
    )


@pytest.mark.parametrize(
    ("suffix", "small", "side", "remedy"),
    [
        (".jpg", (1, 1100), 65501, r"use \.png"),
        (".webp", (300, 1), 16384, r"use \.png"),
        (".png", (1, 16000), 1_000_001, r"use \.tif"),
        (".bmp", (700, 700), 40_000, r"use \.png"),
        (".tif", (700, 700), 40_000, r"use \.png"),
    ],
)
def test_limits_of_formats_are_known_before_anything_is_computed(tmp_path, suffix, small, side, remedy):
    source = tmp_path / "a.png"
    source.write_bytes(encoded(np.zeros((*small, 3), np.uint8), "PNG"))
    budget.set_memory_limit(1 << 50)
    with Upscaler(open_session(None, "reference"), outscale=side / max(small)) as upscaler:
        with pytest.raises(OutputError, match=remedy):
            upscale_file(source, tmp_path / f"b{suffix}", upscaler)
        assert upscaler.counts.frames == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65500), (".webp", 16383), (".png", 1_000_000)])
def test_the_longest_sides_are_really_written_and_read(tmp_path, suffix, side):
    write_image(tmp_path / f"a{suffix}", StillImage(np.zeros((1, side, 3), np.uint8)))
    assert read_image(tmp_path / f"a{suffix}").rgb.shape == (1, side, 3)
    with pytest.raises(OutputError, match="pixels a side"):
        write_image(tmp_path / f"b{suffix}", StillImage(np.zeros((1, side + 1, 3), np.uint8)))


def test_an_encoder_that_fails_leaves_no_empty_file(tmp_path, rgb):
    with pytest.raises(OutputError, match="cannot be encoded"):
        write_image(tmp_path / "a.png", StillImage(rgb, icc_profile=b"no profile" * 20))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unix("makes pipes and links")
def test_one_bad_picture_of_a_folder_is_reported_and_the_others_are_done(tmp_path, rgb, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "deeper").mkdir(parents=True)
    for name in ("a.png", "z.png", "deeper/b.png"):
        (source / name).write_bytes(encoded(rgb, "PNG"))
    (source / "b.jpg").write_bytes(cut_with_an_end(encoded(rgb, "JPEG")))
    (source / "c.tif").write_bytes(encoded(rgb, "JPEG", icc_profile=SRGB))  # a profile, which a TIFF is not given
    os.mkfifo(source / "pipe.png")
    (source / "zero.png").symlink_to("/dev/zero")
    (source / "loop.png").symlink_to("loop.png")
    (source / "again").symlink_to(source)
    (source / "huge.png").write_bytes(encoded(np.zeros((5000, 5000, 3), np.uint8), "PNG"))
    arguments = [str(source), "-o", str(target), "-b", "reference", "--max-memory", "0.5"]
    assert upscale.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("esrgan-upscale: ")]
    for name in ("b.jpg", "c.tif", "pipe.png", "zero.png", "loop.png", "huge.png"):
        assert sum(name in line for line in lines) == 1, name
    assert len(lines) == 7
    assert "6 of 9" in lines[-1]
    assert sorted(path.name for path in target.rglob("*.*")) == ["a.png", "b.png", "z.png"]


def test_too_little_memory_for_every_picture_is_a_matter_of_the_machine(tmp_path, rgb):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(np.zeros((1000, 1000, 3), np.uint8), "PNG"))
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-b", "reference", "--max-memory", "0.01"]
    assert upscale.main(arguments) == 3


@pytest.mark.linux("takes any bytes for a name")
def test_names_that_are_no_utf_8_are_read_and_written(tmp_path, rgb):
    source, target = (tmp_path / os.fsdecode(name) for name in (b"\xff\xfe.png", b"\xe9t\xe9.jpg"))
    source.write_bytes(encoded(rgb, "PNG"))
    with Upscaler(open_session(None, "reference")) as upscaler:
        assert upscale_file(source, target, upscaler) == (240, 320)
    assert read_image(target).rgb.shape == (240, 320, 3)


def test_what_a_header_says_is_what_is_decoded(tmp_path, rng):
    for dtype, kind, channels in ((np.uint8, "PNG", 3), (np.uint16, "PNG", 3), (np.uint8, "PNG", 4)):
        pixels = rng.integers(0, 255, (7, 9, channels)).astype(dtype)
        path = tmp_path / "a.png"
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        header = read_header(path, path.read_bytes())
        assert (header.kind, header.width, header.height) == (kind, 9, 7)
        assert (header.channels, header.sample_bytes) == (channels, np.dtype(dtype).itemsize)


def test_a_picture_is_still_checked(tmp_path):
    with pytest.raises(OptionError):
        write_image(tmp_path / "a.png", None)
