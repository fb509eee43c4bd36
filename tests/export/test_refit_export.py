"""Exports whose alpha can be set afterwards: set to an alpha, they equal an export at that alpha."""

import dataclasses
import errno
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from esrgan_deploy import ModelError, ModelInfo, OptionError
from esrgan_deploy.alpha import endpoints_path, model_at_alpha, read_endpoints
from esrgan_deploy.endpoints import load_at_alpha
from esrgan_deploy.errors import FidelityError
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import MODELS
from esrgan_export import artefact
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.cli.export import main
from esrgan_export.endpoints import check_refittable, make_endpoints
from esrgan_export.interpolate import interpolate
from esrgan_export.precision import to_precision
from esrgan_export.to_onnx import export_onnx
from esrgan_export.verification_report import Seam
from esrgan_export.verify import convert_verified, measure
from small_networks import small_network

COMPACT = MODELS["compact-clean"]
KINDS = ("srvgg", "rrdb", "msrresnet")
PRECISIONS = {"fp32": None, "fp16": [], "fp16 with islands": slice(1, 4), "bf16": []}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Checkpoints of each kind: a PSNR network, and a GAN whose every weight is a little another one."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for kind in KINDS:
        psnr, gan = small_network(kind), small_network(kind)
        for parameter in gan.parameters():
            parameter *= 1 + 0.1 * torch.rand_like(parameter)
        for name, network in (("psnr", psnr), ("gan", gan)):
            save_checkpoint(network, folder / f"{kind}_{name}.safetensors")
        found[kind] = tuple(load_checkpoint(folder / f"{kind}_{name}.safetensors") for name in ("psnr", "gan"))
    return found


@functools.cache
def traced(psnr, gan, alpha):
    """The fp32 graph of a pair at `alpha`."""
    network = interpolate(psnr, gan, alpha)
    return export_onnx(network, ModelInfo(network.scale, alpha=alpha, arch=network.config()))


def export(pair, alpha, precision="fp32"):
    """The ONNX file of a pair at `alpha`, without verification."""
    model = traced(*pair, alpha)
    network = pair[1].network
    info = ModelInfo(network.scale, precision.split()[0], alpha=alpha, arch=network.config())
    if precision == "fp32":
        return model, info
    nodes = [node.name for node in model.graph.node if node.op_type == "Conv"]
    islands = nodes[PRECISIONS[precision]] if PRECISIONS[precision] else []
    return to_precision(model, precision.split()[0], islands), info


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_blended_model_is_an_export_at_that_alpha_bit_for_bit(pairs, kind, precision):
    model, info = export(pairs[kind], 0.8, precision)
    endpoints = make_endpoints(*pairs[kind], model, info)
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert (TensorProto.FLOAT in types and len(types) == 2) == (precision == "fp16 with islands")
    for alpha in (0.0, 0.25, 0.5, 1 / 3, 0.8, 1.0):
        other = export(pairs[kind], alpha, precision)[0]
        assert model_at_alpha(model, endpoints, alpha).SerializeToString() == other.SerializeToString()


@pytest.fixture(scope="module")
def compact():
    """A pair that ships, and its endpoints."""
    pair = [load_checkpoint(path) for path in (COMPACT.psnr, COMPACT.gan)]
    model, info = export(pair, 0.8)
    return pair, make_endpoints(*pair, model, info)


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0, 1))
def test_numpy_blends_as_pytorch_does(compact, alpha):
    """On the weights that ship, at any alpha."""
    pair, endpoints = compact
    expected = interpolate(*pair, alpha).state_dict()
    for name, theta in endpoints.blend(alpha).items():
        assert theta.tobytes() == expected[name].numpy().tobytes(), name


def test_ends_hold_what_the_checkpoints_do(pairs):
    psnr, gan = pairs["srvgg"]
    model, info = export((psnr, gan), 0.5)
    endpoints = make_endpoints(psnr, gan, model, info)
    assert (endpoints.psnr_sha256, endpoints.gan_sha256) == (psnr.sha256, gan.sha256)
    assert endpoints.arch == gan.network.config()
    state = gan.network.state_dict()
    assert list(endpoints.gan) == list(state)
    slopes = next(name for name in state if state[name].ndim == 1 and endpoints.gan[name].ndim == 3)
    assert endpoints.gan[slopes].shape == (8, 1, 1), "PReLU's slopes have the shape that the graph gives them"
    np.testing.assert_array_equal(endpoints.gan[slopes].ravel(), state[slopes].numpy())


def test_constants_are_there_for_a_refit_that_asks_for_them(pairs):
    """The 0.2 of residual scaling may be fused with the weights before it."""
    model, info = export(pairs["rrdb"], 0.5, "fp16")
    constants = make_endpoints(*pairs["rrdb"], model, info).graph_constants()
    read = {name for node in model.graph.node if node.op_type == "Mul" for name in node.input}
    scalings = [constants[name] for name in read & set(constants)]
    assert scalings
    assert {(value.dtype.name, float(value)) for value in scalings} == {("float16", float(np.float16(0.2)))}


def test_weights_that_are_not_linear_in_alpha_are_refused():
    with pytest.raises(OptionError, match=r"batch normalisation.*not linear in alpha"):
        check_refittable(small_network("srresnet"), "fp32")
    with pytest.raises(OptionError, match="int8"):
        check_refittable(small_network("srvgg"), "int8")


def test_an_end_that_fp16_cannot_hold_is_found_at_the_export(pairs, tmp_path):
    psnr, _ = pairs["srvgg"]
    huge = small_network("srvgg")
    next(huge.parameters())[0, 0, 0, 0] = 1e5
    save_checkpoint(huge, tmp_path / "huge.safetensors")
    pair = (psnr, load_checkpoint(tmp_path / "huge.safetensors"))
    model, info = export(pair, 0.1, "fp16")
    with pytest.raises(ModelError, match="too large for fp16"):
        make_endpoints(*pair, model, info)


# --- the command ---


@pytest.fixture
def run(pairs, tmp_path, capsys, monkeypatch):
    """esrgan-export in the folder of the checkpoints, into `out`."""
    monkeypatch.chdir(pairs["srvgg"][0].path.parent)

    def call(*arguments):
        code = main([*arguments, "-o", str(tmp_path / "out")])
        return code, *capsys.readouterr()

    return call


BOTH = ("--psnr", "srvgg_psnr.safetensors", "--gan", "srvgg_gan.safetensors")


def test_each_alpha_gets_its_endpoints(run, tmp_path):
    code, out, err = run(*BOTH, "--alpha", "0.25", "0.75", "--fp16", "--refit", "--name", "net")
    assert code == 0, err
    paths = [tmp_path / "out" / f"net_x4_a{alpha}_fp16.onnx" for alpha in ("0.25", "0.75")]
    for path in paths:
        assert f"both endpoints: {endpoints_path(path)}" in out
        read_endpoints(endpoints_path(path))
    for path, other in (paths, paths[::-1]):
        blended, info = load_at_alpha(path, load_onnx(other)[1].alpha)
        assert blended.graph == load_onnx(other)[0].graph
        assert info.to_metadata() == load_onnx(other)[1].to_metadata()
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".part") == []


def test_without_refit_there_are_no_endpoints(run, tmp_path):
    assert run(*BOTH, "--alpha", "0.5")[0] == 0
    assert not list((tmp_path / "out").glob("*.ends.*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gan", "srvgg_gan.safetensors", "--refit"), "--refit needs a second checkpoint to blend with: --psnr"),
        (("--psnr", "srvgg_psnr.safetensors", "--refit"), "--refit needs a second checkpoint to blend with: --gan"),
        (("--psnr", "bn.safetensors", "--gan", "bn.safetensors", "--alpha", "0.5", "--refit"), "batch normalisation"),
    ],
)
def test_what_cannot_be_set_later_is_refused_in_one_line(run, tmp_path, arguments, words):
    save_checkpoint(small_network("srresnet"), Path("bn.safetensors"))
    code, out, err = run(*arguments)
    errors = [line for line in err.splitlines() if not line.startswith("[")]
    assert (code, out, len(errors)) == (2, "", 1)
    assert words in errors[0]
    assert not list((tmp_path / "out").glob("*.*"))


def test_no_file_is_left_where_the_ends_cannot_be_written(run, tmp_path, monkeypatch):
    """The disk is full when the last of the three files is written."""

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artefact.Endpoints, "to_bytes", full)
    code, _, err = run(*BOTH, "--alpha", "0.5", "--refit")
    assert code == 2
    assert "No space left" in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def reference(pairs):
    """The PSNR network of a pair, measured on noise."""
    photos = {"noise": np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)}
    return measure(pairs["srvgg"][0].network, export(pairs["srvgg"], 0.0)[0], photos)


def test_the_overlap_is_enough_for_both_endpoints(reference):
    """Seams differ between alphas: of the compact pair, 8 px are enough at 0.3, and 16 px are needed at 0.8."""
    others = {
        alpha: dataclasses.replace(reference, seams=(Seam(overlap, 0.001, "noise"),))
        for alpha, overlap in ((0.0, 24), (1.0, 16))
    }
    reference = dataclasses.replace(reference, seams=(Seam(8, 0.002, "noise"),))
    assert convert_verified(reference, "fp32", "x.onnx")[1].overlap == 8
    assert convert_verified(reference, "fp32", "x.onnx", other_alphas=others)[1].overlap == 24


def test_an_end_that_is_not_exact_fails_the_export(reference, pairs):
    """The artefact itself is exact; at alpha 1 it gives something else than the network there."""
    photos = {name: np.rint(photo * 255).astype(np.uint8) for name, photo in reference.photos.items()}
    other = measure(pairs["srvgg"][1].network, reference.model, photos)
    assert convert_verified(reference, "fp32", "x.onnx")[1].passed
    with pytest.raises(FidelityError, match=r"x\.onnx at alpha 1: fp32 gives .* nothing was written"):
        convert_verified(reference, "fp32", "x.onnx", other_alphas={1.0: other})


def test_layers_that_overflow_at_an_end_stay_fp32_at_every_alpha(pairs, tmp_path):
    """A GAN whose first layer gives 100000 times as much, which its second layer takes back."""
    psnr, _ = pairs["srvgg"]
    loud = small_network("srvgg")
    layers = [m for m in loud.modules() if isinstance(m, torch.nn.Conv2d)][-2:]
    layers[0].weight *= 1e5
    layers[0].bias *= 1e5
    layers[1].weight /= 1e5
    save_checkpoint(loud, tmp_path / "loud.safetensors")
    pair = (psnr, load_checkpoint(tmp_path / "loud.safetensors"))
    network = interpolate(*pair, 0.0)
    info = ModelInfo(4, "fp16", alpha=0.0, arch=network.config())
    alone = artefact.export_artefact(network, info, tmp_path / "alone.onnx")
    turnable = artefact.export_artefact(network, info, tmp_path / "turnable.onnx", pair=pair)
    assert not alone.kept_fp32
    assert any("activations" in reason for reason in turnable.kept_fp32.values())
