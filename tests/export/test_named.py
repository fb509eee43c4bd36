"""Checkpoints by name: the runtime has them exported in a process of its own, and esrgan-export takes names itself."""

import hashlib

import pytest
import torch

from esrgan_deploy import fetch_model
from esrgan_deploy.errors import ModelError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import MODELS
from esrgan_export.cli.export import main
from esrgan_export.networks import RRDBNet


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ESRGAN_MODELS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def write_checkpoint(path):
    network = RRDBNet(channels=8, growth=4, blocks=1)
    torch.save({"params_ema": network.state_dict()}, path)
    return network


def test_a_checkpoint_in_the_users_folder_is_exported_once(own):
    write_checkpoint(own / "tiny.pth")
    said = []
    path = fetch_model("tiny", progress=lambda what, done, total: said.append(what))
    info = load_onnx(path)[1]
    assert info.gan_sha256 == hashlib.sha256((own / "tiny.pth").read_bytes()).hexdigest()
    assert info.overlap is not None, "it was verified and measured"
    assert any("tracing the network" in line for line in said)
    assert fetch_model("tiny") == path
    before = path.read_bytes()
    write_checkpoint(own / "tiny.pth")
    assert fetch_model("tiny").read_bytes() != before


def test_a_pickle_with_code_in_it_is_refused_and_not_run(own, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"params": Evil()}, own / "evil.pth")
    with pytest.raises(ModelError, match=r"evil.pth: cannot be exported"):
        fetch_model("evil")
    assert not (tmp_path / "ran").exists()


def test_names_of_both_ends(own, tmp_path, capsys):
    write_checkpoint(own / "one.pth")
    write_checkpoint(own / "two.pth")
    out = tmp_path / "out"
    assert main(["--psnr", "one", "--gan", "two", "--alpha", "1", "-o", str(out)]) == 0, capsys.readouterr().err
    assert (out / "two_x4_a1.00_fp32.onnx").exists()


@pytest.mark.parametrize("end", ["gan", "psnr"])
def test_a_bundled_name_is_the_end_that_is_asked_for(tmp_path, end):
    assert main([f"--{end}", "compact-clean", "-o", str(tmp_path)]) == 0
    info = load_onnx(tmp_path / "compact-clean_x4_fp32.onnx")[1]
    file = getattr(MODELS["compact-clean"], end)
    assert getattr(info, f"{end}_sha256") == hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_is_published_as_onnx_only_cannot_be_exported(capsys, tmp_path):
    assert main(["--gan", "spankendata-x4", "-o", str(tmp_path)]) == 2
    assert "is published as ONNX only" in capsys.readouterr().err


def test_an_unknown_name(capsys, tmp_path):
    assert main(["--gan", "bsrgam", "-o", str(tmp_path)]) == 2
    assert "did you mean bsrgan or" in capsys.readouterr().err
