"""The maintainer's scripts for bundled models: files from two checkpoints, and figures for the card."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from esrgan_deploy.errors import FidelityError, ModelError, OptionError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import MODELS, BundledModel
from esrgan_export import photos
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.interpolate import relatedness
from small_networks import small_network

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "studies"))

import bundle  # the benchmarks are scripts beside each other, no package
import ordinary_card


@pytest.fixture
def pair(tmp_path):
    """Two networks; the file of the GAN names the other one as its parent."""
    psnr, gan = small_network("srvgg"), small_network("srvgg")
    for parameter in gan.parameters():
        parameter *= 1 + 0.01 * torch.rand_like(parameter)
    save_checkpoint(psnr, tmp_path / "psnr.safetensors", "a" * 64)
    save_checkpoint(gan, tmp_path / "gan.safetensors", load_checkpoint(tmp_path / "psnr.safetensors").sha256)
    return tmp_path / "psnr.safetensors", tmp_path / "gan.safetensors"


def store(pair, folder):
    folder.mkdir()
    paths = folder / "x_psnr_x4.safetensors", folder / "x_gan_x4.safetensors"
    bundle.store_pair(*map(load_checkpoint, pair), *paths)
    return paths


def test_a_pair_is_stored_in_16_bits_and_stays_a_pair(pair, tmp_path):
    psnr, gan = store(pair, tmp_path / "out")
    for path, trained in zip((psnr, gan), pair, strict=True):
        with safe_open(path, "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
        stored, exact = load_checkpoint(path), load_checkpoint(trained)
        assert stored.kind == exact.kind
        for key, value in exact.network.state_dict().items():
            assert torch.equal(stored.network.state_dict()[key], value.half().float())
    assert load_checkpoint(gan).parent_sha256 == load_checkpoint(psnr).sha256
    assert load_checkpoint(psnr).parent_sha256 == "a" * 64
    again = store(pair, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [psnr.read_bytes(), gan.read_bytes()]


def test_a_gan_of_another_parent_is_refused(pair, tmp_path):
    psnr, gan = pair
    save_checkpoint(load_checkpoint(gan).network, gan, "b" * 64)
    with pytest.raises(ModelError, match=r"gan\.safetensors was trained from a file with SHA-256 b+, and not"):
        store((psnr, gan), tmp_path / "out")


def test_a_pair_of_one_parent_stays_one(pair, tmp_path):
    gan = pair[1]
    save_checkpoint(load_checkpoint(gan).network, gan, "a" * 64)
    stored = [load_checkpoint(path) for path in store(pair, tmp_path / "out")]
    assert [checkpoint.parent_sha256 for checkpoint in stored] == ["a" * 64, "a" * 64]
    assert relatedness(*stored).lineage == "siblings"


def test_a_network_that_16_bits_cannot_hold_is_refused(pair, tmp_path):
    network = load_checkpoint(pair[0]).network
    with torch.no_grad():
        first, second, *_ = (module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        for tensor in (first.weight, first.bias):
            tensor *= 2**-18
        second.weight *= 2**18
    save_checkpoint(network, pair[0])
    with pytest.raises((FidelityError, ModelError), match=r"psnr\S*\.safetensors"):
        store(pair, tmp_path / "out")


@pytest.mark.slow
def test_all_files_are_made_and_old_ones_removed(pair, tmp_path, monkeypatch):
    model = BundledModel("tiny", stem="tiny", alpha=0.25, purpose="a test")
    monkeypatch.setitem(MODELS, "tiny", model)
    made = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        (folder / "tiny_x4_a0.80_fp32.onnx").write_bytes(b"of another alpha")
        (folder / "other_x4_a0.80_fp32.onnx").write_bytes(b"of another model")
        args = argparse.Namespace(
            name="tiny", psnr=pair[0], gan=pair[1], calibrate=Path(photos.__file__).parent, output=folder
        )
        assert bundle.main(args) == 0
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    stem = "tiny_x4_a0.25"
    assert set(made[0]) == {
        "other_x4_a0.80_fp32.onnx",
        model.psnr.name,
        model.gan.name,
        *(f"{stem}_{precision}.{kind}" for precision in ("fp32", "int8") for kind in ("onnx", "report.json")),
    }
    info = load_onnx(tmp_path / "one" / model.onnx.name)[1]
    assert (info.alpha, info.gan_sha256) == (0.25, load_checkpoint(tmp_path / "one" / model.gan.name).sha256)


def test_a_name_that_the_table_lacks(pair):
    with pytest.raises(OptionError, match="'tiny' is not in the table"):
        bundle.main(argparse.Namespace(name="tiny", psnr=pair[0], gan=pair[1], calibrate=Path(), output=None))


KINDS = ("clean", "jpeg60", "noisy", "mpeg4", "h264")
ROWS = {
    "bicubic": ((27.0, 26.0, 25.0, 26.5, 24.0), (0.3, 0.4, 0.5, 0.4, 0.4)),
    "compact-clean a0": ((28.5, 26.0, 25.0, 26.5, 24.0), (0.2, 0.3, 0.5, 0.3, 0.4)),
    "animevideov3": ((26.0, 25.0, 25.0, 26.0, 24.0), (0.25, 0.3, 0.4, 0.3, 0.4)),
    "ordinary a0.5": ((28.25, 26.2, 24.9, 26.25, 24.5), (0.2, 0.3, 0.3, 0.24, 0.3)),
}
TABLES = """\
| PSNR-Y in dB / ST-LPIPS | clean | jpeg60 | noisy | mpeg4 | h264 |
|---|---|---|---|---|---|
| bicubic | 27.00 / 0.300 | 26.00 / 0.400 | 25.00 / 0.500 | 26.50 / 0.400 | 24.00 / 0.400 |
| compact-clean, alpha 0 | 28.50 / 0.200 | 26.00 / 0.300 | 25.00 / 0.500 | 26.50 / 0.300 | 24.00 / 0.400 |
| animevideov3 | 26.00 / 0.250 | 25.00 / 0.300 | 25.00 / 0.400 | 26.00 / 0.300 | 24.00 / 0.400 |
| ordinary, alpha 0.5 | 28.25 / 0.200 | 26.20 / 0.300 | 24.90 / 0.300 | 26.25 / 0.240 | 24.50 / 0.300 |

| | PSNR-Y against bicubic's, worst damaged kind | ST-LPIPS against animevideov3's, worst damaged kind | PSNR-Y of \
clean LR against compact-clean's at alpha 0 |
|---|---|---|---|
| ordinary, alpha 0.5 | -0.25 dB (mpeg4) | +0% (jpeg60) | -0.25 dB |
"""


def test_the_card_gets_the_figures_between_its_markers(tmp_path):
    rows = {
        name: {"psnr_y": dict(zip(KINDS, psnr_y, strict=True)), "st_lpips": dict(zip(KINDS, st_lpips, strict=True))}
        for name, (psnr_y, st_lpips) in ROWS.items()
    }
    (tmp_path / "r.json").write_text(json.dumps({"rows": rows}), "utf-8")
    card = f"# Card\n\n{ordinary_card.BEGIN}old\n{ordinary_card.END}\nThe rest.\n"
    written = ordinary_card.with_figures(card, ordinary_card.read_rows(tmp_path / "r.json"))
    assert written == f"# Card\n\n{ordinary_card.BEGIN}\n{TABLES}\n{ordinary_card.END}\nThe rest.\n"
    assert ordinary_card.with_figures(written, rows) == written


def test_the_card_has_what_was_measured_last():
    card = MODELS["ordinary"].card.read_text("utf-8")
    assert ordinary_card.with_figures(card, ordinary_card.read_rows()) == card
    assert "| ordinary, alpha 0 |" in card
