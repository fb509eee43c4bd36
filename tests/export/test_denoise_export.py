"""The network between one that removes noise and one that keeps it, against the blend that export makes."""

import dataclasses

import pytest

from esrgan_deploy.denoise import blend
from esrgan_deploy.model import ModelInfo
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.interpolate import interpolate
from esrgan_export.to_onnx import export_onnx
from small_networks import small_network


@pytest.mark.parametrize("denoise", [0.3, 0.5, 1 / 3])
def test_it_is_what_export_makes_of_both_checkpoints(tmp_path, denoise):
    """Real-ESRGAN: dni_weight = [denoise, 1 - denoise] for [general, general-wdn]."""
    for name, seed in (("general", 1), ("wdn", 2)):
        save_checkpoint(small_network("srvgg", seed), tmp_path / f"{name}.safetensors")
    general, wdn = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("general", "wdn"))
    for each in (general, wdn):
        info = ModelInfo(scale=4, arch=each.network.config(), gan_sha256=each.sha256, overlap=9, created_by="test")
        each.path.with_suffix(".onnx").write_bytes(export_onnx(each.network, info).SerializeToString())
    between = dataclasses.replace(info, alpha=denoise, psnr_sha256=wdn.sha256, gan_sha256=general.sha256)
    expected = export_onnx(interpolate(wdn, general, denoise), between)
    ours = blend(tmp_path / "general.onnx", tmp_path / "wdn.onnx", denoise)
    assert ours.SerializeToString() == expected.SerializeToString()
