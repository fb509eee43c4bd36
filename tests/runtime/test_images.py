"""Pictures, with Pillow as the independent reader and writer."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from esrgan_deploy import MediaError, OutputError, Upscaler, open_session
from esrgan_deploy.images import StillImage, read_image, upscale_image, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def rgb(rng):
    """Smooth, so that JPEG and WebP stay close."""
    y, x = np.mgrid[0:24, 0:32]
    return np.dstack([8 * y, 255 - 7 * x, (x + y) * 4]).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied_as_pillow_applies_it(tmp_path, rgb, orientation, kind):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind.lower()}"
    if kind == "TIFF":
        path = path.with_suffix(".tif")
    image.save(path, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    result = read_image(path).rgb
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_profile_survives(tmp_path, rgb, suffix):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    Image.fromarray(rgb).save(source, icc_profile=SRGB)
    still = read_image(source)
    assert still.icc_profile == SRGB
    write_image(target, still)
    with Image.open(target) as written:
        assert written.info["icc_profile"] == SRGB


def test_profile_that_the_format_cannot_hold_is_said(tmp_path, rgb):
    with pytest.raises(OutputError, match=r"\.png"):
        write_image(tmp_path / "a.tif", StillImage(rgb, icc_profile=SRGB))
    assert list(tmp_path.iterdir()) == []


def test_16_bit_survives_to_the_last_bit(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    for suffix in (".png", ".tif"):
        write_image(tmp_path / f"a{suffix}", StillImage(values))
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").rgb, values)


def test_16_bit_grey_is_read_as_pillow_wrote_it(tmp_path, rng):
    values = rng.integers(0, 65536, (9, 11)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "g.png")
    still = read_image(tmp_path / "g.png")
    assert still.grey
    np.testing.assert_array_equal(still.rgb, np.dstack([values] * 3))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA", "CMYK"])
def test_modes_agree_with_pillow(tmp_path, rgb, mode):
    image = Image.fromarray(rgb).convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(rgb[..., 0]))
    image = image.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path, **({"quality": 100, "subsampling": 0} if mode == "CMYK" else {}))
    still = read_image(path)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
        if mode in ("LA", "RGBA"):
            np.testing.assert_array_equal(still.alpha, np.asarray(opened.convert("RGBA"))[..., 3])
    assert np.abs(still.rgb.astype(int) - expected).max() <= (4 if mode == "CMYK" else 0)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_upscaled_picture_keeps_its_kind(tmp_path, rgb, grey, with_alpha):
    colour = np.dstack([rgb[..., 0]] * 3) if grey else rgb
    alpha = rgb[..., 2] if with_alpha else None
    with Upscaler(open_session(None, "reference")) as upscaler:
        result = upscale_image(StillImage(colour, alpha, grey), upscaler)
    write_image(tmp_path / "a.png", result)
    back = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(back.rgb, colour.repeat(4, 0).repeat(4, 1))
    if with_alpha:
        np.testing.assert_array_equal(back.alpha, alpha.repeat(4, 0).repeat(4, 1))
    assert (back.alpha is not None) == with_alpha
    if not with_alpha:
        with Image.open(tmp_path / "a.png") as written:
            assert written.mode == ("L" if grey else "RGB")


def encoded(rgb, kind):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp")])
@pytest.mark.parametrize("keep", [0, 1, 12, 0.5, 0.9])
def test_truncated_picture_is_refused_by_name(tmp_path, rng, kind, suffix, keep, capfd):
    data = encoded(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8), kind)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(MediaError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_text_and_animation_are_refused(tmp_path, rgb):
    (tmp_path / "text.png").write_text("not a picture")
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match="no picture"):
        read_image(tmp_path / "text.png")
    with pytest.raises(MediaError, match="2 pictures"):
        read_image(tmp_path / "moving.webp")


@pytest.mark.parametrize(
    ("name", "alpha", "words"),
    [("a.gif", False, "no format"), ("a.jpg", True, "transparency"), ("no/such/a.png", False, "does not exist")],
)
def test_what_cannot_be_written_is_said(tmp_path, rgb, name, alpha, words):
    with pytest.raises(OutputError, match=words):
        write_image(tmp_path / name, StillImage(rgb, rgb[..., 0] if alpha else None))
    assert list(tmp_path.iterdir()) == []
