"""-m PATH of what is no ONNX file: ncnn files are converted once, and kept by what is in them."""

import sys

import cv2
import numpy as np
import pytest

from esrgan_deploy import budget
from esrgan_deploy.cli import upscale
from esrgan_deploy.zoo import convert
from ncnn_writer import write_srvgg
from tiny_srvgg import picture, srvgg_weights

MADE = "converting net.param to ONNX, once"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "esrgan-deploy" / "models"


@pytest.fixture
def run(tmp_path, capsys, rng):
    """Upscales a small picture with `model`; gives the result, and what was said."""
    frame = rng.integers(0, 256, (9, 7, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), frame[..., ::-1])

    def upscaled(model, status=0):
        command = [str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "-m", str(model), "-b", "ort"]
        assert upscale.main(command) == status
        return capsys.readouterr().err

    upscaled.frame = frame
    return upscaled


def assert_upscaled(run, path, seed):
    expected = picture(srvgg_weights(seed), run.frame.transpose(2, 0, 1) / 255).transpose(1, 2, 0) * 255
    assert np.abs(cv2.imread(str(path))[..., ::-1] - expected).max() < 0.51


@pytest.mark.parametrize("named", ["net.param", "net.bin"])
def test_either_ncnn_file_is_enough_and_it_is_converted_once(tmp_path, run, named):
    write_srvgg(tmp_path, srvgg_weights(1))
    assert MADE in run(tmp_path / named)
    assert_upscaled(run, tmp_path / "out.png", 1)
    assert MADE not in run(tmp_path / named)
    write_srvgg(tmp_path, srvgg_weights(2))
    assert MADE in run(tmp_path / named)
    assert_upscaled(run, tmp_path / "out.png", 2)


def test_files_of_one_name_in_two_folders_do_not_get_into_each_others_way(tmp_path, run):
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        write_srvgg(tmp_path / str(seed), srvgg_weights(seed))
        assert MADE in run(tmp_path / str(seed) / "net.param")
    for seed in (1, 2):
        assert MADE not in run(tmp_path / str(seed) / "net.param")
        assert_upscaled(run, tmp_path / "out.png", seed)


def test_what_cannot_be_is_said_in_one_line(tmp_path, run, monkeypatch):
    (tmp_path / "alone.param").write_text("7767517\n1 1\nInput in 0 1 data\n")
    assert "alone.bin is missing beside it" in run(tmp_path / "alone.param", 2).splitlines()[-1]
    assert "lost.param: cannot be read: No such file" in run(tmp_path / "lost.param", 2).splitlines()[-1]
    (tmp_path / "alone.bin").write_bytes(b"")
    assert "has 0 convolutions" in run(tmp_path / "alone.param", 2).splitlines()[-1]
    monkeypatch.setattr(convert, "torch_is_here", lambda: False)
    (tmp_path / "net.pth").write_bytes(b"x")
    assert "pip install 'esrgan-deploy[export]'" in run(tmp_path / "net.pth", 3).splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="a file without content takes all its space there")
def test_a_file_that_is_larger_than_the_memory_is_not_read(tmp_path, run, cache):
    write_srvgg(tmp_path, srvgg_weights(1))
    with (tmp_path / "net.bin").open("ab") as file:
        file.truncate(1 << 42)
    budget.set_memory_limit(1 << 30)
    try:
        assert "net.bin: its content needs 4096.0 GiB" in run(tmp_path / "net.param", 3).splitlines()[-1]
    finally:
        budget.set_memory_limit(None)
    assert not cache.exists()
