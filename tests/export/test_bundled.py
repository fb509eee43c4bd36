"""The models that come with the package: their files fit each other and the table, and any alpha is at hand."""

import json
import re
import shutil

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from esrgan_deploy import ModelError, OptionError, open_session
from esrgan_deploy import models as table
from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.cli.upscale import main
from esrgan_deploy.endpoints import load_at_alpha
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import BUNDLED, COMPACT_CLEAN, DEFAULT, MODELS
from esrgan_export.artefact import report_path
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.interpolate import interpolate, relatedness
from esrgan_export.to_onnx import export_onnx

pytestmark = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def pair(name):
    return load_checkpoint(MODELS[name].psnr), load_checkpoint(MODELS[name].gan)


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def test_files_are_what_the_table_says(name, pair):
    model = MODELS[name]
    assert model.name == name
    assert relatedness(*pair).lineage in ("parent", "siblings")
    for path, precision in ((model.onnx, "fp32"), (int8_path(model.onnx), "int8")):
        info = load_onnx(path)[1]
        found = (info.scale, info.alpha, info.precision, info.psnr_sha256, info.gan_sha256)
        assert found == (model.scale, model.alpha, precision, pair[0].sha256, pair[1].sha256)
        report = json.loads(report_path(path).read_text("utf-8"))
        assert (report["passed"], report["precision"]) == (True, precision)
    assert re.match("# ", model.card.read_text("utf-8"))
    others = [path.name for other in MODELS.values() if other is not model for path in (other.psnr, other.gan)]
    ours = {path.name for path in table._FOLDER.glob(f"{model.stem}_*")} - set(others)
    reports = {report_path(path).name for path in (model.onnx, int8_path(model.onnx))}
    expected = {model.psnr.name, model.gan.name, model.onnx.name, int8_path(model.onnx).name, *reports}
    assert ours == expected, "nothing of another alpha is left"


def test_the_graph_is_that_of_an_export(name, pair):
    """The committed file, byte for byte but for the version that made it."""
    model, info = load_onnx(MODELS[name].onnx)
    exported = export_onnx(interpolate(*pair, MODELS[name].alpha), info)
    exported.producer_version = model.producer_version
    assert exported.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_another_alpha_has_the_weights_of_an_export(name, pair, alpha):
    """Without a file beside the model: the weights come from the checkpoints."""
    blended, info = load_at_alpha(MODELS[name].onnx, alpha)
    assert info.alpha == alpha
    assert weights(blended) == weights(export_onnx(interpolate(*pair, alpha), info))


def test_a_copy_elsewhere_is_known_by_what_it_was_made_of(name, tmp_path):
    copy = tmp_path / "mine.onnx"
    shutil.copy(MODELS[name].onnx, copy)
    assert weights(load_at_alpha(copy, 0.3)[0]) == weights(load_at_alpha(MODELS[name].onnx, 0.3)[0])


def test_another_network_that_claims_the_pair_is_refused(name, tmp_path):
    model = onnx.load(MODELS[name].onnx)
    model.graph.initializer[0].name = "stranger"
    for node in model.graph.node:
        node.input[:] = ["stranger" if one == load_name(name) else one for one in node.input]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=r"not those of its checkpoints; export the model again with --refit"):
        load_at_alpha(tmp_path / "x.onnx", 0.3)


def load_name(name):
    return onnx.load(MODELS[name].onnx).graph.initializer[0].name


def test_int8_says_that_it_has_one_alpha(name):
    path = int8_path(MODELS[name].onnx)
    with pytest.raises(OptionError, match=rf"{path.name}: int8 weights .* so alpha cannot be set"):
        load_at_alpha(path, 0.3)


def test_alpha_on_the_command_line(name, pair, tmp_path, monkeypatch, capsys):
    """A picture at another alpha, beside the network of PyTorch at that alpha."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    cv2.imwrite(str(source), picture[..., ::-1])
    common = [str(source), "-o", str(target), "-m", str(MODELS[name].onnx), "-b", "ort"]
    assert main([*common, "--alpha", "0.3"]) == 0
    assert f"{MODELS[name].onnx.name} x4 at alpha 0.3, ort" in capsys.readouterr().err
    import torch

    frame = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    expected = interpolate(*pair, 0.3)(frame)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(cv2.imread(str(target))[..., ::-1] - expected).max() < 0.51  # rounded to whole numbers


def test_alpha_of_a_session_is_the_blend(name):
    with open_session(MODELS[name].onnx, "openvino", precision="fp32") as session:
        frame = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3)).astype(np.uint8)
        own = session.run(frame)
        session.set_alpha(0.0 if MODELS[name].alpha > 0.5 else 1.0)
        other = session.run(frame)
        session.set_alpha(MODELS[name].alpha)
        np.testing.assert_array_equal(session.run(frame), own)
    assert np.abs(own.astype(int) - other).max() > 1


def test_public_names(name):
    assert MODELS[DEFAULT].onnx == BUNDLED
    assert MODELS["compact-clean"].onnx == COMPACT_CLEAN
    assert MODELS[name].onnx.exists()
