"""Endpoints files, and what becomes of a model that is turned by them."""

import dataclasses
import json
import os
import struct
import sys
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load, save

from esrgan_deploy import BackendMissingError, ModelError, OptionError
from esrgan_deploy.alpha import endpoints_path, model_at_alpha, read_endpoints, write_endpoints
from esrgan_deploy.endpoints import load_at_alpha
from esrgan_deploy.model import load_onnx
from gain_pair import kernel_of, pair_endpoints, write_model

WEIGHTS = st.floats(-4, 4, width=32)


def endpoints_of(psnr, gan, **changes):
    return pair_endpoints(psnr={"kernel": psnr}, gan={"kernel": gan}, **changes)


# --- the blend ---


@given(hnp.arrays(np.float32, (2, 5), elements=WEIGHTS), st.floats(0, 1))
def test_the_blend_is_that_of_the_paper(values, alpha):
    """Against exact fractions: each of the three float32 operations may be off by half a step of its result."""
    blend = endpoints_of(values[0], values[1]).blend(alpha)["kernel"]
    for psnr, gan, theta in zip(*values.tolist(), blend.tolist(), strict=True):
        exact = (1 - Fraction(alpha)) * Fraction(psnr) + Fraction(alpha) * Fraction(gan)
        assert abs(Fraction(theta) - exact) <= 2.0**-22 * (abs(psnr) + abs(gan)) + 2.0**-140
    assert blend.dtype == np.float32


@given(hnp.arrays(np.float32, (2, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_the_ends_come_out_as_they_went_in(values):
    endpoints = endpoints_of(values[0], values[1])
    np.testing.assert_array_equal(endpoints.blend(0)["kernel"], values[0])
    np.testing.assert_array_equal(endpoints.blend(1)["kernel"], values[1])


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(alpha):
    with pytest.raises(OptionError, match=r"not in \[0, 1\]"):
        pair_endpoints().blend(alpha)


@given(hnp.arrays(np.float32, 6, elements=st.floats(-60000, 60000, width=32)))
def test_fp16_is_what_the_standard_library_makes_of_it(values):
    rounded = endpoints_of(values, values, types={"kernel": "fp16"}).graph_weights(0)["kernel"]
    assert rounded.tobytes() == struct.pack("<6e", *values.tolist())


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F80),  # 1
        (0x3F808000, 0x3F80),  # half-way, to even below
        (0x3F818000, 0x3F82),  # half-way, to even above
        (0x3F808001, 0x3F81),
        (0xBF818000, 0xBF82),
        (0x00008001, 0x0001),  # subnormal
    ],
)
def test_bf16_is_rounded_to_nearest_even(bits, rounded):
    values = np.array([bits], np.uint32).view(np.float32)
    found = endpoints_of(values, values, types={"kernel": "bf16"}).graph_weights(1)["kernel"]
    assert found.dtype.name == "bfloat16"
    assert found.view(np.uint16).tolist() == [rounded]


def test_a_weight_that_fp16_cannot_hold_is_an_error_not_an_infinity():
    huge = np.full(1, 7e4, np.float32)
    endpoints = endpoints_of(np.zeros(1, np.float32), huge, types={"kernel": "fp16"})
    assert np.isfinite(endpoints.graph_weights(0.5)["kernel"]).all()
    with pytest.raises(ModelError, match="'kernel' is too large for fp16"):
        endpoints.graph_weights(1)


# --- the file ---


def test_the_file_is_read_as_it_was_written(tmp_path):
    written = pair_endpoints(
        types={"kernel": "bf16", "c": "fp16", "scalar": "fp32"},
        constants={"c": np.array([0.2], np.float32), "scalar": np.float32(0.2).reshape(())},
    )
    path = tmp_path / "x.ends.safetensors"
    write_endpoints(path, written)
    found = read_endpoints(path)
    for field in dataclasses.fields(written):
        ours, theirs = getattr(found, field.name), getattr(written, field.name)
        if field.name in ("psnr", "gan", "constants"):
            assert {k: (v.shape, v.tolist()) for k, v in ours.items()} == {
                k: (v.shape, v.tolist()) for k, v in theirs.items()
            }
        else:
            assert ours == theirs
    assert {k: v.dtype.name for k, v in found.graph_constants().items()} == {"c": "float16", "scalar": "float32"}


def test_the_same_ends_give_the_same_bytes():
    assert len({pair_endpoints().to_bytes() for _ in range(8)}) == 1


def test_other_programs_find_both_endpoints(tmp_path):
    """The layout that the page on formats promises, read by the library alone."""
    write_endpoints(tmp_path / "x.ends.safetensors", pair_endpoints())
    tensors = load((tmp_path / "x.ends.safetensors").read_bytes())
    assert {name: values[0, 0, 0, 0] for name, values in tensors.items()} == {"psnr/kernel": 0.5, "gan/kernel": 1.0}


def altered(part=None, **about):
    """The bytes of an endpoints file with other metadata or tensors."""
    data = pair_endpoints().to_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = json.loads(json.loads(data[8:start])["__metadata__"]["esrgan.ends"])
    content = json.dumps({k: v for k, v in {**found, **about}.items() if v is not None})
    return save({**load(data), **(part or {})}, {"esrgan.ends": content})


DAMAGED = {
    "empty": (lambda: b"", "damaged"),
    "text": (lambda: b"hello, I am no weights at all\n", "damaged"),
    "cut": (lambda: pair_endpoints().to_bytes()[:-3], "damaged"),
    "a checkpoint": (
        lambda: save({"conv.weight": np.zeros(3, np.float32)}),
        "does not hold the weights of two endpoints",
    ),
    "no json": (lambda: save({"psnr/k": np.zeros(1, np.float32)}, {"esrgan.ends": "{"}), "damaged metadata"),
    "a list": (lambda: save({"psnr/k": np.zeros(1, np.float32)}, {"esrgan.ends": "[]"}), "damaged metadata"),
    "newer": (lambda: altered(format=2), "is of format 2, this version reads 1"),
    "no types": (lambda: altered(types=None), "damaged metadata"),
    "types of another kind": (lambda: altered(types=5), "damaged metadata"),
    "an unknown type": (lambda: altered(types={"kernel": "fp8"}), "do not fit each other"),
    "a third weight": (lambda: altered({"gan/more": np.zeros(3, np.float32)}), "do not fit each other"),
    "another shape": (lambda: altered({"gan/kernel": np.zeros((3, 3), np.float32)}), "do not fit each other"),
    "another element": (lambda: altered({"gan/kernel": np.zeros((3, 3, 1, 1))}), "do not fit each other"),
    "deep": (lambda: save({"psnr/k": np.zeros(1, np.float32)}, {"esrgan.ends": "[" * 100_000}), "damaged metadata"),
    "no numbers": (
        lambda: altered({"gan/kernel": np.full((3, 3, 1, 1), np.nan, np.float32)}),
        "'gan/kernel' holds values that are NaN",
    ),
    "half of bf16": (lambda: pair_endpoints().to_bytes().replace(b"F32", b"F99"), "damaged"),
    "eight bits": (lambda: pair_endpoints().to_bytes().replace(b'"F32"', b'"F8_E8M0"'), "damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path, case):
    content, words = DAMAGED[case]
    path = tmp_path / "x.ends.safetensors"
    path.write_bytes(content())
    with pytest.raises(ModelError, match=words) as caught:
        read_endpoints(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "--refit" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path, words in ((tmp_path / "absent.ends.safetensors", "cannot be read"), (tmp_path, "is a folder")):
        with pytest.raises(ModelError, match=words):
            read_endpoints(path)


@pytest.mark.unix("named pipes")
def test_a_pipe_is_no_endpoints_file(tmp_path):
    os.mkfifo(path := tmp_path / "x.ends.safetensors")
    with pytest.raises(ModelError, match="is a pipe"):
        read_endpoints(path)


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendMissingError, match=r"esrgan-deploy\[cpu\]"):
        read_endpoints(tmp_path / "x.ends.safetensors")
    with pytest.raises(BackendMissingError, match=r"esrgan-deploy\[cpu\]"):
        write_endpoints(tmp_path / "x.ends.safetensors", pair_endpoints())


def test_weights_in_another_memory_layout_are_written_in_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    endpoints = pair_endpoints(psnr={"k": values.T}, gan={"k": values.T}, types={"k": "fp32"})
    np.testing.assert_array_equal(load(endpoints.to_bytes())["psnr/k"], values.T)


# --- the model ---


def test_a_turned_model_is_the_one_written_at_that_alpha(tmp_path):
    model = load_onnx(write_model(tmp_path / "a.onnx", 0.8))[0]
    other = load_onnx(write_model(tmp_path / "b.onnx", 0.25))[0]
    assert model_at_alpha(model, pair_endpoints(), 0.25).SerializeToString() == other.SerializeToString()
    assert kernel_of(model)[0, 0, 0, 0] == pytest.approx(0.9), "the model itself must stay as it is"


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_keep_the_type_that_the_graph_has(tmp_path, element):
    model = load_onnx(write_model(tmp_path / "a.onnx"))[0]
    stored = model.graph.initializer[0]
    stored.CopyFrom(onnx.helper.make_tensor(stored.name, element, stored.dims, kernel_of(model).ravel()))
    turned = model_at_alpha(model, pair_endpoints(), 0.5).graph.initializer[0]
    assert turned.data_type == element
    assert numpy_helper.to_array(turned).astype(float)[0, 0, 0, 0] == 0.75


def test_ends_of_another_graph_are_refused(tmp_path):
    model = load_onnx(write_model(tmp_path / "a.onnx"))[0]
    for weights in ({"other": np.zeros((3, 3, 1, 1), np.float32)}, {"kernel": np.zeros((3, 3), np.float32)}):
        endpoints = pair_endpoints(psnr=weights, gan=weights)
        with pytest.raises(ModelError, match="not those of its endpoints"):
            model_at_alpha(model, endpoints, 0.5)


def test_int8_weights_are_refused(tmp_path):
    model = load_onnx(write_model(tmp_path / "a.onnx"))[0]
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.int8), "kernel"))
    with pytest.raises(ModelError, match="no floating-point"):
        model_at_alpha(model, pair_endpoints(), 0.5)


# --- reading a file at an alpha ---


def test_a_turned_file_says_so(tmp_path):
    path = write_model(tmp_path / "a.onnx", 0.8)
    _, plain = load_onnx(path)
    model, info = load_at_alpha(path, 0.25)
    assert info == dataclasses.replace(plain, alpha=0.25)
    assert info.file_sha256 == f"{plain.file_sha256}@0.25"
    assert {entry.key: entry.value for entry in model.metadata_props} == info.to_metadata()
    assert load_at_alpha(path, 1)[1].file_sha256 == load_at_alpha(path, 1.0)[1].file_sha256 != plain.file_sha256


@pytest.mark.parametrize("alpha", [None, 0.8])
def test_its_own_alpha_takes_no_endpoints(tmp_path, alpha):
    path = write_model(tmp_path / "a.onnx", 0.8, with_endpoints=False)
    model, info = load_at_alpha(path, alpha)
    assert model == load_onnx(path)[0]
    assert info.file_sha256 == load_onnx(path)[1].file_sha256


def test_missing_ends_name_the_remedy(tmp_path):
    path = write_model(tmp_path / "a.onnx", with_endpoints=False)
    with pytest.raises(OptionError, match=r"setting alpha needs a.ends.safetensors beside it.*--refit"):
        load_at_alpha(path, 0.5)


@pytest.mark.parametrize("change", [{"psnr_sha256": "c" * 64}, {"gan_sha256": "c" * 64}, {"arch": {"name": "x"}}])
def test_ends_of_another_pair_are_refused(tmp_path, change):
    path = write_model(tmp_path / "a.onnx")
    write_endpoints(endpoints_path(path), pair_endpoints(**change))
    with pytest.raises(ModelError, match=r"belongs to another .* than .*a\.onnx was made from") as caught:
        load_at_alpha(path, 0.5)
    assert str(endpoints_path(path)) in str(caught.value)


def test_engines_have_their_ends_beside_them_too(tmp_path):
    assert endpoints_path(tmp_path / "m_a0.80.u8_1x360x640.trt10.engine").name == (
        "m_a0.80.u8_1x360x640.trt10.ends.safetensors"
    )
