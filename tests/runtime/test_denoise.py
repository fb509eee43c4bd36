"""Networks between one that removes noise and one that keeps it."""

import numpy as np
import pytest

from esrgan_deploy import ModelError, OptionError, OutputError, open_session
from esrgan_deploy.denoise import denoised_file
from esrgan_deploy.model import load_onnx
from esrgan_deploy.ncnn import onnx_from_ncnn
from ncnn_writer import write_srvgg
from tiny_srvgg import picture, srvgg_weights


def converted(folder, name, weights, scale=2):
    folder = folder / name
    folder.mkdir()
    param = write_srvgg(folder, weights, scale)
    path = folder.parent / f"{name}.onnx"
    path.write_bytes(onnx_from_ncnn(param, folder / "net.bin", overlap=4).SerializeToString())
    return path


@pytest.fixture
def pair(tmp_path):
    """The strong network and the weak one."""
    return converted(tmp_path, "strong", srvgg_weights(1)), converted(tmp_path, "weak", srvgg_weights(2))


@pytest.mark.parametrize("denoise", [0, 0.25, 0.5, 1])
def test_the_picture_is_that_of_weights_between_the_two(tmp_path, pair, rng, denoise):
    """0.25 is a quarter of the strong network, as Real-ESRGAN's `-dn` has it."""
    strong, weak = srvgg_weights(1), srvgg_weights(2)
    between = {name: denoise * strong[name].astype(float) + (1 - denoise) * weak[name] for name in strong}
    frame = rng.integers(0, 256, (1, 8, 11, 3), np.uint8)
    expected = picture(between, frame[0].transpose(2, 0, 1) / 255).transpose(1, 2, 0) * 255
    with open_session(denoised_file(*pair, denoise, tmp_path), "ort") as session:
        assert np.abs(session.run(frame)[0].astype(float) - expected).max() < 0.51


def test_the_ends_are_the_files_themselves(tmp_path, pair):
    before = sorted(tmp_path.iterdir())
    assert denoised_file(*pair, 1, tmp_path) == pair[0]
    assert denoised_file(*pair, 0.0, tmp_path) == pair[1]
    assert sorted(tmp_path.iterdir()) == before


def test_the_file_is_made_once_and_again_when_it_is_damaged(tmp_path, pair):
    path = denoised_file(*pair, 0.5, tmp_path)
    assert path == tmp_path / "strong_dn0.5.onnx"
    made, data = path.stat().st_mtime_ns, path.read_bytes()
    assert denoised_file(*pair, 0.5, tmp_path) == path
    assert path.stat().st_mtime_ns == made
    path.write_bytes(b"half of it")
    assert denoised_file(*pair, 0.5, tmp_path).read_bytes() == data


def test_where_it_came_from_is_in_the_file(tmp_path, pair):
    strong, weak = (load_onnx(path)[1] for path in pair)
    _, info = load_onnx(denoised_file(*pair, 0.75, tmp_path))
    assert (info.alpha, info.gan_sha256, info.psnr_sha256) == (0.75, strong.gan_sha256, weak.gan_sha256)
    assert (info.overlap, info.arch) == (4, strong.arch)


@pytest.mark.parametrize(
    ("denoise", "says"), [(1.5, "1.5 is not in"), (-0.1, "-0.1"), (float("nan"), "nan"), ("0.5", "give a number")]
)
def test_what_is_no_share_is_refused(tmp_path, pair, denoise, says):
    with pytest.raises(OptionError, match=says):
        denoised_file(*pair, denoise, tmp_path)


@pytest.mark.parametrize("other", [{"channels": 5}, {"convs": 3}, {"scale": 3}])
def test_another_network_is_refused(tmp_path, pair, other):
    weak = converted(tmp_path, "other", srvgg_weights(2, **other), other.get("scale", 2))
    with pytest.raises(ModelError, match=r"other\.onnx: is another network than .*strong\.onnx"):
        denoised_file(pair[0], weak, 0.5, tmp_path)


def test_a_folder_that_is_missing_is_named(tmp_path, pair):
    with pytest.raises(OutputError, match="missing"):
        denoised_file(*pair, 0.5, tmp_path / "missing")
