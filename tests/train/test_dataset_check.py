"""Real files of every kind in a folder, and what the check of a data set says about them."""

import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from esrgan_deploy import EsrganError, MediaError, OptionError
from esrgan_export.bicubic import downscale
from esrgan_export.photos import load_photos
from esrgan_train.cli import main
from esrgan_train.data.cache import open_pairs
from esrgan_train.data.dataset_check import check_dataset
from esrgan_train.data.dataset_report import SHOWN
from esrgan_train.data.image_check import detail_psnr, outline_of
from esrgan_train.data.lr_check import explain
from esrgan_train.data.pictures import find_partner, list_pictures, read_rgb8

PHOTOS = load_photos()


@pytest.fixture
def folder(tmp_path):
    """Five photographs of 128x96 as PNG."""
    folder = tmp_path / "train"
    folder.mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(photo).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def large():
    """A photograph of 512x384, with detail."""
    noise = np.random.default_rng(0).normal(0, 6, (384, 512, 3))
    enlarged = cv2.resize(PHOTOS["dogs"], (512, 384), interpolation=cv2.INTER_CUBIC)
    return np.clip(enlarged + noise, 0, 255).astype(np.uint8)


def found(report):
    """{(severity, kind, name of the file)}."""
    return {(problem.severity, problem.kind, problem.path.name) for problem in report.problems}


def save_lr(folder, make, suffix=".png"):
    lr = folder.parent / "lr"
    lr.mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(make(photo)).save(lr / f"{name}{suffix}")
    return lr


def test_healthy_data_has_no_problems(folder):
    report = check_dataset([folder], patch=96)
    assert report.problems == ()
    assert str(report).splitlines()[0] == (
        f"train       {folder}: 5 pictures, 0.1 Mpx, from 128x96 to 128x96 (median 128x96), modes RGB 5"
    )
    assert str(report).splitlines()[-1] == "0 errors, 0 warnings"


def test_sizes_and_bytes_are_counted(folder):
    Image.fromarray(PHOTOS["dogs"][:64, :80]).save(folder / "small.png")
    Image.fromarray(np.tile(PHOTOS["dusk"], (2, 2, 1))).convert("L").save(folder / "sub.png")
    report = check_dataset([folder], scale=4)
    line = str(report).splitlines()[0]
    assert "7 pictures" in line
    assert "from 80x64 to 256x192 (median 128x96)" in line
    assert "modes L 1 RGB 6" in line
    hr = (5 * 128 * 96 + 80 * 64 + 256 * 192) * 3
    assert report.cache_bytes == hr + hr // 16


def test_everything_that_training_would_stop_at_is_an_error_of_one_line(folder):
    png = (folder / "dogs.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    jpeg = cv2.imencode(".jpg", PHOTOS["dogs"])[1].tobytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    cv2.imwrite(str(folder / "deep.png"), PHOTOS["dogs"].astype(np.uint16) * 257)
    Image.fromarray(PHOTOS["dogs"]).convert("CMYK").save(folder / "print.jpg")
    glass = Image.fromarray(PHOTOS["dogs"]).convert("RGBA")
    glass.putpixel((100, 50), (0, 0, 0, 254))
    glass.save(folder / "glass.png")
    Image.fromarray(PHOTOS["dogs"][:20, :20]).save(folder / "tiny.png")
    report = check_dataset([folder], patch=64)
    unreadable = ["cut.png", "cut.jpg", "text.png", "empty.jpg", "deep.png", "print.jpg", "glass.png"]
    expected = {("error", "unreadable", name) for name in unreadable}
    assert found(report) == expected | {("error", "smaller than the patch", "tiny.png")}
    lines = [line for line in str(report).splitlines() if line.startswith("error")]
    assert len(lines) == 8
    for line, remedy in [
        ("deep.png: holds 16 bit samples", "convert it to 8 bit"),
        ("print.jpg: is CMYK", "convert it to RGB"),
        ("glass.png: is RGBA and transparent in places", "flatten it"),
        ("tiny.png: is 20x20, smaller than the patch of 64", "remove it"),
    ]:
        assert any(line in printed and remedy in printed for printed in lines), line


def test_other_files_are_named_and_ignored(folder):
    (folder / "LICENCE.txt").write_text("text")
    (folder / ".DS_Store").write_text("hidden")
    (folder / "phone.heic").write_bytes(b"0000ftypheic")
    report = check_dataset([folder])
    assert found(report) == {
        ("warning", "other files", "train"),
        ("warning", "pictures of unknown formats", "phone.heic"),
    }
    assert "1 file ignored, no pictures: LICENCE.txt;" in str(report)
    assert "DS_Store" not in str(report)


def test_a_folder_without_pictures_is_an_error_and_the_others_are_examined(folder, tmp_path):
    (tmp_path / "none").mkdir()
    report = check_dataset([tmp_path / "none", folder], validation=[tmp_path / "missing"])
    assert found(report) == {("error", "empty", "none"), ("error", "empty", "missing")}
    assert [len(summary.pictures) for summary in report.folders] == [0, 5, 0]
    assert "none: holds no pictures; put some there" in str(report)


def test_orientation_is_counted_and_applied(folder):
    image = Image.fromarray(PHOTOS["dogs"][:90])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "phone.jpg", exif=exif)
    report = check_dataset([folder])
    assert "1 stored rotated, made upright" in str(report)
    phone = next(picture for picture in report.folders[0].pictures if picture.path.name == "phone.jpg")
    assert (phone.width, phone.height) == (90, 128)


def recompress(photo, quality):
    return cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


NEARLY = {
    "recompressed": lambda photo: recompress(photo, 40),
    "halved": lambda photo: cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "enlarged": lambda photo: cv2.resize(photo, (301, 225), interpolation=cv2.INTER_CUBIC),
    "smaller and recompressed": lambda photo: recompress(downscale(photo, 2), 50),
    "brighter": lambda photo: np.clip(photo * 0.9 + 20, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("how", NEARLY)
def test_near_duplicates_are_found_across_training_and_validation(folder, tmp_path, how):
    validation = tmp_path / "validation"
    validation.mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(NEARLY[how](photo)).save(validation / f"copy of {name}.png")
    errors = check_dataset([folder], validation=[validation]).errors
    assert {problem.path.name: problem.what.split(",")[0] for problem in errors} == {
        f"copy of {name}.png": f"shows the same as {folder / name}.png" for name in PHOTOS
    }


def test_exact_duplicates_are_found_whatever_the_file(folder, tmp_path):
    validation = tmp_path / "validation"
    validation.mkdir()
    Image.fromarray(PHOTOS["dogs"]).save(validation / "a.bmp")
    Image.fromarray(PHOTOS["dusk"]).save(folder / "zz.tif")
    report = check_dataset([folder], validation=[validation])
    assert found(report) == {
        ("error", "validated and trained on", "a.bmp"),
        ("warning", "duplicate", "zz.tif"),
    }
    assert f"a.bmp: has the same pixels as {folder / 'dogs.png'}, which is trained on" in str(report)


def test_validating_on_the_training_folder_is_an_error_for_every_picture(folder):
    report = check_dataset([folder], validation=[folder])
    assert len(report.errors) == 5
    assert {problem.kind for problem in report.problems} == {"validated and trained on"}


def test_a_copy_of_a_copy_is_still_held_against_training(folder, tmp_path):
    validation = tmp_path / "validation"
    validation.mkdir()
    Image.fromarray(recompress(PHOTOS["dogs"], 80)).save(validation / "a.png")
    Image.fromarray(recompress(PHOTOS["dogs"], 79)).save(validation / "b.png")
    report = check_dataset([folder], validation=[validation])
    assert {problem.path.name for problem in report.errors} == {"a.png", "b.png"}


def test_different_pictures_are_no_duplicates(tmp_path):
    """Crops of one photograph that overlap (by 95 % and less), mirrored pictures, and flat ones."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, photo in PHOTOS.items():
        for left in (0, 6, 30):
            Image.fromarray(photo[:, left : left + 98]).save(folder / f"{name} {left}.png")
        Image.fromarray(photo[:, ::-1]).save(folder / f"{name} mirrored.png")
    for value in (0, 90, 255):
        Image.new("RGB", (64, 64), (value, value, value)).save(folder / f"flat {value}.png")
    assert not [problem for problem in check_dataset([folder]).problems if problem.kind == "duplicate"]


def test_blurred_pictures_are_named(folder, large):
    Image.fromarray(large).save(folder / "sharp.png")
    Image.fromarray(cv2.GaussianBlur(large, (0, 0), 4)).save(folder / "soft.png")
    blurred = {name for _, kind, name in found(check_dataset([folder])) if kind == "blurred"}
    assert blurred == {"soft.png"}


def test_detail_is_measured_at_the_centre():
    """A known loss: a checkerboard of one pixel, +-d about grey, is flattened by halving, so the error is d."""
    board = (np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 20 + np.full(3, 118)).astype(np.uint8)
    assert detail_psnr(board) == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    framed = cv2.copyMakeBorder(board, 600, 600, 600, 600, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    assert detail_psnr(framed) == pytest.approx(detail_psnr(board) + 20 * np.log10(1024 / 64), abs=0.3)
    assert detail_psnr(np.full((50, 50, 3), 7, np.uint8)) == np.inf


def test_outlines_of_other_pictures_are_far_and_of_copies_near():
    outlines = np.stack([outline_of(photo) for photo in PHOTOS.values()])
    likeness = outlines @ outlines.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
    assert np.abs(likeness - np.diag(np.diag(likeness))).max() < 0.7


# LR pictures


def test_matlabs_bicubic_is_recognised(folder):
    lr = save_lr(folder, lambda photo: downscale(photo, 4))
    assert check_dataset([folder], lr=lr, scale=4).problems == ()


def by_pillow(filter):
    return lambda photo: np.asarray(Image.fromarray(photo).resize((32, 24), filter))


def by_opencv(interpolation):
    return lambda photo: cv2.resize(photo, (32, 24), interpolation=interpolation)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (by_pillow(Image.Resampling.BICUBIC), "Pillow's bicubic"),
        (by_pillow(Image.Resampling.LANCZOS), "Pillow's Lanczos"),
        (by_opencv(cv2.INTER_CUBIC), "OpenCV's bicubic"),
        (by_opencv(cv2.INTER_AREA), "area averaging"),
    ],
)
def test_other_kernels_are_told_apart(folder, make, name):
    report = check_dataset([folder], lr=save_lr(folder, make), scale=4)
    assert len(report.warnings) == 5
    assert report.errors == ()
    for problem in report.warnings:
        assert problem.kind == "LR is not MATLAB's bicubic"
        assert problem.what.startswith(f"is {name}")


def test_a_compressed_lr_is_called_compressed(folder):
    lr = save_lr(folder, lambda photo: recompress(downscale(photo, 4), 95))
    problems = check_dataset([folder], lr=lr, scale=4).problems
    assert len(problems) == 5
    for problem in problems:
        assert "is closest to MATLAB's bicubic" in problem.what
        assert "compressed" in problem.what


def test_one_wrong_pixel_anywhere_is_seen():
    hr = PHOTOS["brushes"]
    lr = downscale(hr, 4)
    assert explain(hr, lr, 4) is None
    lr[-1, -1, 2] ^= 2
    assert "compressed or edited" in explain(hr, lr, 4)


def test_a_degraded_lr_is_a_warning_and_another_picture_an_error(folder):
    lr = save_lr(folder, lambda photo: cv2.GaussianBlur(downscale(photo, 4), (0, 0), 1.5))
    Image.fromarray(downscale(PHOTOS["mountain"], 4)).save(lr / "dogs.png")
    report = check_dataset([folder], lr=lr, scale=4)
    assert [problem.path.name for problem in report.errors] == ["dogs.png"]
    assert "shows something else than its HR picture" in report.errors[0].what
    assert {problem.path.name for problem in report.warnings} == {f"{name}.png" for name in PHOTOS} - {"dogs.png"}
    assert all("no plain downscaling" in problem.what for problem in report.warnings)


def test_lr_of_another_scale_is_named(folder):
    report = check_dataset([folder], lr=save_lr(folder, lambda photo: downscale(photo, 2)), scale=4)
    assert len(report.errors) == 5
    assert "is 64x48, which would be x2, but an HR of 128x96 needs 32x24 for x4" in report.errors[0].what


def test_missing_and_superfluous_lr(folder):
    lr = save_lr(folder, lambda photo: downscale(photo, 4))
    (lr / "dogs.png").rename(lr / "cats.png")
    (lr / "dusk.png").write_text("damaged")
    assert found(check_dataset([folder], lr=lr, scale=4)) == {
        ("error", "no LR", "dogs.png"),
        ("error", "unreadable", "dusk.png"),
        ("warning", "LR without HR", "cats.png"),
    }


def test_lr_that_is_no_folder_is_one_error(folder, tmp_path):
    assert found(check_dataset([folder], lr=tmp_path / "nowhere")) == {("error", "no LR", "nowhere")}


def test_lr_of_several_folders_is_refused(folder, tmp_path):
    with pytest.raises(OptionError, match="examine them one by one"):
        check_dataset([folder, folder], lr=tmp_path)


def test_hr_that_scale_does_not_divide_is_cut_like_in_training(folder):
    for name, photo in PHOTOS.items():
        Image.fromarray(np.pad(photo, ((0, 3), (0, 1), (0, 0)), mode="edge")).save(folder / f"{name}.png")
    assert check_dataset([folder], lr=save_lr(folder, lambda photo: downscale(photo, 4)), scale=4).problems == ()


# The report


def test_many_warnings_are_cut_short_and_errors_are_not(folder, large):
    (folder / "dogs.png").unlink()  # of which the blurred ones would be near copies
    for number in range(SHOWN + 3):
        soft = cv2.GaussianBlur(np.roll(large, 37 * number, axis=1)[:192, :256], (0, 0), 4)
        Image.fromarray(soft).save(folder / f"soft{number:02}.png")
        (folder / f"broken{number:02}.png").touch()
    report = check_dataset([folder])
    lines = str(report).splitlines()
    assert sum(line.startswith("error") for line in lines) == len(report.errors) == SHOWN + 3
    assert sum("its centre has no detail" in line for line in lines) == SHOWN
    assert lines[-2] == "warning     and 3 more: blurred"
    assert lines[-1] == f"{SHOWN + 3} errors, {SHOWN + 3} warnings"


def test_progress_reaches_the_total_and_warnings_stay_as_they_were(folder):
    calls = []
    before = warnings.filters[:]
    check_dataset([folder], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 5) for done in range(1, 6)]
    assert warnings.filters == before


# Reading


def test_pictures_are_listed_sorted_from_all_depths_and_through_links(folder, tmp_path):
    (folder / "b").mkdir()
    (folder / "b" / "x.JPG").touch()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "t.png").touch()
    (folder / "._dogs.png").touch()
    (folder / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.webp").touch()
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    names = [path.relative_to(folder).as_posix() for path in list_pictures(folder)]
    assert names == sorted([*(f"{name}.png" for name in PHOTOS), "b/x.JPG", "c/y.webp"])


@pytest.mark.parametrize("missing", ["nothing", "file"])
def test_no_pictures_is_an_error_that_names_the_folder(tmp_path, missing):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=f"{missing}: is no folder"):
        list_pictures(tmp_path / missing)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_pictures_become_rgb_as_pillow_makes_them(tmp_path, mode):
    image = Image.fromarray(PHOTOS["dogs"]).convert(mode)
    image.save(tmp_path / "a.png")
    picture = read_rgb8(tmp_path / "a.png")
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, np.asarray(image.convert("RGB")))


def test_lab_is_refused(tmp_path):
    Image.fromarray(PHOTOS["dogs"]).convert("LAB").save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match=r"a\.tif: is LAB; convert it to RGB"):
        read_rgb8(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["0001.png", "0001x4.png", "0001.JPG", "0001x4.bmp"])
def test_partners_are_found_by_name(tmp_path, name):
    (tmp_path / "lr" / "deep").mkdir(parents=True)
    for other in ("0001x2.png", "0001.txt", "00010.png"):
        (tmp_path / "lr" / "deep" / other).touch()
    hr = tmp_path / "hr" / "deep" / "0001.png"
    with pytest.raises(MediaError, match="is missing"):
        find_partner(hr, tmp_path / "hr", tmp_path / "lr", 4)
    (tmp_path / "lr" / "deep" / name).touch()
    assert find_partner(hr, tmp_path / "hr", tmp_path / "lr", 4).name == name


def test_brackets_and_dots_in_names_are_only_characters(tmp_path):
    (tmp_path / "lr").mkdir()
    (tmp_path / "lr" / "a.b.png").touch()
    with pytest.raises(MediaError):
        find_partner(tmp_path / "a.png", tmp_path, tmp_path / "lr", 4)
    (tmp_path / "lr" / "a[1].png").touch()
    assert find_partner(tmp_path / "a[1].png", tmp_path, tmp_path / "lr", 4).name == "a[1].png"


def bomb():
    """A PNG of 60000x60000 in 60 bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.unix("makes pipes, and links to devices and to themselves")
@pytest.mark.timeout(60)
def test_what_is_no_picture_by_the_name_of_one(folder, capsys):
    os.mkfifo(folder / "pipe.png")
    (folder / "zeros.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.png").symlink_to(folder / "folder.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "loop").symlink_to(folder)
    (folder / "text.png").write_text("no picture")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "\udcff\x1b[31m.png").write_bytes(b"")
    report = check_dataset([folder])
    unreadable = {problem.path.name for problem in report.errors if problem.kind == "unreadable"}
    assert unreadable == {"pipe.png", "zeros.png", "itself.png", "text.png", "bomb.png", "\udcff\x1b[31m.png"}
    assert main(["doctor", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.unix("makes pipes, and links to devices and to themselves")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "zeros", "itself", "bomb"])
@pytest.mark.parametrize("side", ["hr", "lr"])
def test_training_names_it(side, kind, folder, tmp_path):
    other = tmp_path / "lr"
    other.mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(downscale(np.ascontiguousarray(photo), 4)).save(other / f"{name}.png")
    path = (folder if side == "hr" else other) / "dogs.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "bomb":
        path.write_bytes(bomb())
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else path)
    with pytest.raises(EsrganError) as caught:
        open_pairs(folder, 4, lr_folder=other, cache=tmp_path / "cache")
    assert "dogs.png" in str(caught.value)
    assert "\n" not in str(caught.value)
