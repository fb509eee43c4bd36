"""Functions that take a file or folder take it as str, Path or any os.PathLike."""

import os

import cv2
import pytest

from esrgan_deploy import OptionError
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.evaluation.image_pairs import images_by_stem, load_pair
from esrgan_export.evaluation.methods import Folder
from esrgan_export.ncnn import read_ncnn
from esrgan_export.photos import load_photos
from esrgan_export.quantise.calibration import load_crops
from small_networks import small_network


class Entry:
    """A path that is neither str nor Path, as `os.scandir` gives them."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture
def folder(tmp_path):
    for name, photo in load_photos().items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), photo[:, :, ::-1])
    return tmp_path


@pytest.mark.parametrize("kind", [str, Entry])
def test_checkpoints(kind, tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(small_network("srvgg"), kind(path))
    checkpoint = load_checkpoint(kind(path))
    assert checkpoint.path == path
    assert checkpoint.sha256 == load_checkpoint(path).sha256


@pytest.mark.parametrize("kind", [str, Entry])
def test_pictures(kind, folder):
    assert images_by_stem(kind(folder)) == images_by_stem(folder)
    assert len(load_crops(kind(folder))) == len(load_crops(folder))
    assert load_pair(kind(folder / "dogs.png"), None, 4).name == "dogs"
    assert Folder(kind(folder), ["dogs"], 4).name == folder.name


def test_ncnn(ncnn_folder):
    stem = os.path.join(ncnn_folder, "REALESRGAN_ANIMAVIDEOV3_UP4X")  # noqa: PTH118 - a str
    assert read_ncnn(f"{stem}.param", f"{stem}.bin").scale == 4


@pytest.mark.parametrize("wrong", [b"net.safetensors", None, 3])
def test_what_is_not_a_path(wrong):
    with pytest.raises(OptionError, match="a path is a str"):
        load_checkpoint(wrong)
