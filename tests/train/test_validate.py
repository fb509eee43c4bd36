"""Scores of whole pictures, as tables have them."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from esrgan_deploy import MediaError, OutputError
from esrgan_export.bicubic import downscale
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.networks import RRDBNet
from esrgan_export.photos import load_photos
from esrgan_train import loop
from esrgan_train.data.cache import Pair, open_pairs
from esrgan_train.loop import train
from esrgan_train.validate import bicubic_baseline, means, save_samples, validate
from tiny import read_log


@pytest.fixture
def pairs():
    return [Pair(f"{name}.png", photo, downscale(photo, 4)) for name, photo in list(load_photos().items())[:3]]


@pytest.fixture
def network():
    """Close to bilinear interpolation, so that its pictures mean something; it sees 12 LR pixels around each."""
    from esrgan_train.initialise import initialise

    torch.manual_seed(0)
    network = RRDBNet(channels=8, growth=4, blocks=1)
    initialise(network, "interpolating")
    return network


def luma(picture):
    """BT.601, 16 to 235."""
    return picture.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def test_psnr_is_on_rounded_pictures_on_y_without_the_border(network, pairs):
    scores, samples = validate(network, pairs, ["psnr", "ssim"], tile=192, samples=2)
    assert list(samples) == [pair.name for pair in pairs[:2]]
    for pair in pairs:
        with torch.no_grad():
            output = network(torch.from_numpy(pair.lr).permute(2, 0, 1)[None] / 255)
        sr = (output.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy().astype(np.uint8)
        error = (luma(sr) - luma(pair.hr))[4:-4, 4:-4]
        assert scores["psnr"][pair.name] == pytest.approx(
            20 * np.log10(255) - 10 * np.log10(np.mean(error**2)), abs=0.01
        )
        if pair.name in samples:
            assert np.abs(samples[pair.name].astype(int) - sr).max() <= 1
    assert set(scores["ssim"]) == set(scores["psnr"])


def test_tiles_do_not_show(network, pairs):
    """Tiles overlap by more than this network sees."""
    whole, tiled = (validate(network, pairs, ["psnr"], tile, samples=3) for tile in (192, 33))
    for name, picture in whole[1].items():
        assert np.abs(picture.astype(int) - tiled[1][name]).max() <= 1
    assert tiled[0]["psnr"] == pytest.approx(whole[0]["psnr"], abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network, pairs, training):
    network.train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    validate(network, pairs[:1], ["psnr"], tile=192)
    assert network.training is training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_one_perfect_picture_does_not_make_the_mean_infinite():
    scores = {"psnr": {"a": float("inf"), "b": 30.0}, "ssim": {"a": 1.0, "b": 0.5}}
    assert means(scores) == {"psnr": 65.0, "ssim": 0.75}


def test_the_baseline_is_bicubic(pairs):
    """Pillow has MATLAB's kernel too, and another border, which is shaved but for a little."""
    scores = bicubic_baseline(pairs, ["psnr"], 4)["psnr"]
    for pair in pairs:
        sr = np.array(Image.fromarray(pair.lr).resize(pair.hr.shape[1::-1], Image.Resampling.BICUBIC))
        error = (luma(sr) - luma(pair.hr))[4:-4, 4:-4]
        assert scores[pair.name] == pytest.approx(20 * np.log10(255) - 10 * np.log10(np.mean(error**2)), abs=0.05)


@pytest.mark.parametrize(("metric", "says"), [("niqe", "NIQE needs two blocks"), ("ssim", "SSIM needs 11x11")])
def test_a_picture_that_is_too_small_for_a_metric(network, metric, says):
    small = np.zeros((16, 16, 3), np.uint8)
    pair = Pair("small.png", small, downscale(small, 4))
    for measure in (lambda: validate(network, [pair], [metric], 192), lambda: bicubic_baseline([pair], [metric], 4)):
        with pytest.raises(
            MediaError, match=f"validation picture small.png: {says}.*remove it, or change validation.metrics"
        ):
            measure()


def test_a_metric_that_does_not_fit_is_found_before_the_first_step(make_recipe, pictures, tmp_path):
    recipe = make_recipe("psnr", f"validation.folder={pictures}", "validation.metrics=[psnr, niqe]")
    with pytest.raises(MediaError, match=r"validation picture .*: NIQE needs two blocks"):
        train(recipe, tmp_path)
    assert read_log(tmp_path) == []


def test_samples_are_complete_files_of_their_own(tmp_path, pairs):
    """Two pictures of one name in different folders, or of different formats, do not overwrite each other."""
    samples = {name: pair.hr for name, pair in zip(("a/x.png", "b/x.png", "x.jpg"), pairs, strict=True)}
    save_samples(samples, tmp_path / "new" / "folder")
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.name for file in files] == ["0-x.png", "1-x.png", "2-x.png"]
    for file, pair in zip(files, pairs, strict=True):
        assert np.array_equal(cv2.imread(str(file))[:, :, ::-1], pair.hr)


def test_samples_on_a_full_disk(tiny_disk, pairs):
    (tiny_disk / "filler").write_bytes(bytes(50_000))
    with pytest.raises(OutputError, match="No space left on device"):
        save_samples({"x.png": pairs[0].hr}, tiny_disk)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_the_alpha_sweep_goes_from_the_parent_to_the_network(make_recipe, pictures, tmp_path):
    train(make_recipe("psnr", "network.scale=4", "init=interpolating"), tmp_path / "psnr")
    parent = tmp_path / "psnr" / loop.LAST
    settings = [f"start_from={parent}", f"validation.folder={pictures}", "validation.alphas=[0, 0.5, 1]"]
    train(make_recipe("gan", *settings, "optimiser.lr=0.003", "validation.samples=1"), tmp_path / "gan")
    lines = {what: read_log(tmp_path / "gan", what) for what in ("validation", "alpha-0", "alpha-0.5", "alpha-1")}
    psnr = {what: line["psnr"] for what, (line,) in lines.items()}
    of_parent = validate(load_checkpoint(parent).network, open_pairs(pictures, 4), ["psnr"], 192)[0]
    assert psnr["alpha-0"] == pytest.approx(means(of_parent)["psnr"], abs=1e-9)
    assert psnr["alpha-1"] == pytest.approx(psnr["validation"], abs=1e-9)
    assert len(set(psnr.values())) == 3
    assert len(list((tmp_path / "gan" / "samples" / "0000006").iterdir())) == 1
