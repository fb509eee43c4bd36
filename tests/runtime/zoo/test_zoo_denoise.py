"""--denoise, and fetch_model(denoise=...): models with a name that were published twice."""

import hashlib

import cv2
import numpy as np
import pytest
from file_server import serving

from esrgan_deploy import ModelError, OptionError, fetch_model, open_session
from esrgan_deploy.cli import upscale
from esrgan_deploy.ncnn import onnx_from_ncnn
from esrgan_deploy.zoo import registry
from ncnn_writer import write_srvgg
from tiny_srvgg import picture, srvgg_weights

ENTRY = """
[{name}]
url = ["{address}/{name}.param", "{address}/{name}.bin"]
sha256 = {hashes}
scale = 2
licence = "CC0-1.0"
{more}
"""
SEEDS = {"strong": 1, "weak": 2}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Has the ncnn files of `strong` and `weak`; the user's own entries say that these belong together."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("ESRGAN_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("ESRGAN_MODELS", str(own))
    with serving() as server:
        text = ""
        for name, seed in SEEDS.items():
            param = write_srvgg(tmp_path, srvgg_weights(seed))
            contents = [param.read_bytes(), param.with_suffix(".bin").read_bytes()]
            server.files |= dict(zip((f"{name}.param", f"{name}.bin"), contents, strict=True))
            hashes = [hashlib.sha256(content).hexdigest() for content in contents]
            more = 'weak_denoise = "weak"' if name == "strong" else ""
            text += ENTRY.format(name=name, address=server.address, hashes=hashes, more=more)
        (own / "models.toml").write_text(text, encoding="utf-8")
        yield server


def expected(frame, denoise):
    """Real-ESRGAN: dni_weight = [denoise, 1 - denoise] for [general, general-wdn]."""
    strong, weak = srvgg_weights(1), srvgg_weights(2)
    between = {name: denoise * strong[name].astype(float) + (1 - denoise) * weak[name] for name in strong}
    return picture(between, frame.transpose(2, 0, 1) / 255).transpose(1, 2, 0) * 255


@pytest.mark.parametrize("denoise", [0, 0.25, 1])
def test_the_command_upscales_with_the_network_between(tmp_path, server, rng, denoise):
    frame = rng.integers(0, 256, (9, 7, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), frame[..., ::-1])
    command = [tmp_path / "in.png", "-o", tmp_path / "out.png", "-m", "strong", "--denoise", denoise, "-b", "ort"]
    assert upscale.main(list(map(str, command))) == 0
    found = cv2.imread(str(tmp_path / "out.png"))[..., ::-1].astype(float)
    assert np.abs(found - expected(frame, denoise)).max() < 0.51


def test_only_what_matters_is_fetched(server):
    fetch_model("strong", denoise=1)
    assert {name for name, _ in server.requests} == {"strong.param", "strong.bin"}
    server.requests.clear()
    kept = fetch_model("strong", denoise=0.5)
    assert {name for name, _ in server.requests} == {"weak.param", "weak.bin"}
    server.requests.clear()
    assert fetch_model("strong", denoise=0.5) == kept
    assert not server.requests
    with open_session(kept, "ort") as session:
        assert session.info.alpha == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-m", "strong", "--denoise", "1.5"], "denoise 1.5 is not in [0, 1]"),
        (["-m", "strong", "--denoise", "nan"], "denoise nan is not in [0, 1]"),
        (["-m", "weak", "--denoise", "0.5"], "model 'weak' has no second network that keeps noise"),
        (["-m", "compact-clean", "--denoise", "0"], "model 'compact-clean' has no second network"),
        (["--denoise", "0.5"], "the default model has no second network that keeps noise"),
        (["-m", "./net.onnx", "--denoise", "0.5"], "'net.onnx' is a file, which has no second network"),
        (["-m", "strange", "--denoise", "0.5"], "model 'strange' is unknown"),
        (["-m", "strong", "--denoise", "0.5", "--alpha", "0.8"], "--alpha 0.8 blends a PSNR network and a GAN"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_fetched(tmp_path, server, capsys, options, says):
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((4, 4, 3), np.uint8))
    assert upscale.main([str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in last
    assert "realesr-general-x4v3 or strong" in last or "has no second" not in last
    assert not server.requests


def test_a_second_network_that_is_another_one_is_refused(tmp_path, server):
    """Both are the user's own files, which go before what is published."""
    for name, weights in {"strong": srvgg_weights(1), "weak": srvgg_weights(2, channels=5)}.items():
        model = onnx_from_ncnn(write_srvgg(tmp_path, weights), tmp_path / "net.bin")
        (registry.own_folder() / f"{name}.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"weak\.onnx: is another network than .*strong\.onnx"):
        fetch_model("strong", denoise=0.5)


def test_the_python_call_refuses_by_name_too(server):
    with pytest.raises(OptionError, match=r"model 'weak' has no second network .* take realesr-general-x4v3 or strong"):
        fetch_model("weak", denoise=0.5)
