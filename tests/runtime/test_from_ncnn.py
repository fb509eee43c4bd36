"""ncnn files become artefacts without torch. What real networks are read as is tested with the exporter."""

import sys

import numpy as np
import pytest

from esrgan_deploy import BackendMissingError, MachineError, ModelError, budget, open_session
from esrgan_deploy.model import load_onnx
from esrgan_deploy.ncnn import onnx_from_ncnn
from ncnn_writer import write_srvgg
from tiny_srvgg import picture, srvgg_weights


@pytest.fixture
def small(tmp_path):
    return write_srvgg(tmp_path, srvgg_weights(1))


def test_the_picture_is_that_of_the_equations(tmp_path, small, rng):
    model = tmp_path / "net.onnx"
    model.write_bytes(onnx_from_ncnn(small, small.with_suffix(".bin"), overlap=4).SerializeToString())
    frame = rng.integers(0, 256, (1, 12, 9, 3), np.uint8)
    expected = picture(srvgg_weights(1), frame[0].transpose(2, 0, 1) / 255).transpose(1, 2, 0) * 255
    with open_session(model, "ort") as session:
        assert session.info.overlap == 4
        found = session.run(frame)[0].astype(np.float64)
    assert expected.std() > 20
    assert np.abs(found - expected).max() < 0.51  # rounded to whole levels


def test_it_says_of_itself_what_an_export_says(tmp_path, small):
    model = tmp_path / "net.onnx"
    model.write_bytes(onnx_from_ncnn(small, small.with_suffix(".bin")).SerializeToString())
    _, info = load_onnx(model)
    assert (info.scale, info.precision, info.multiple_of, info.alpha, info.overlap) == (2, "fp32", 1, None, None)
    assert info.arch == {"name": "SRVGGNetCompact", "channels": 6, "convs": 2, "scale": 2, "activation": "prelu"}


def refused(param, says, error=ModelError):
    with pytest.raises(error, match=says) as caught:
        onnx_from_ncnn(param, param.with_suffix(".bin"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        # waifu2x upconv_7 ends in a deconvolution, SRMD and cunet in a crop, realcugan in a sigmoid and a pooling.
        ("Deconvolution d 1 1 data o 0=3 1=4", "layer d is a Deconvolution, which no supported network has"),
        ("Crop c 1 1 data o 0=4", "layer c is a Crop, which no supported network has"),
        ("Pooling p 1 1 data o 0=1 4=1", "layer p is a Pooling, which no supported network has"),
        ("Interp i 1 1 data o 0=3 1=0.5 2=0.5", "i shrinks the picture .* ask for another size with --outscale"),
        ("Interp i 1 1 data o 0=2 1=2.0 2=2.0", "Interp i has parameter 0=.2.0., which no supported network has"),
    ],
)
def test_networks_of_other_kinds_are_named(tmp_path, layer, says):
    (tmp_path / "net.param").write_text(f"7767517\n2 2\nInput in 0 1 data\n{layer}\n")
    (tmp_path / "net.bin").write_bytes(b"")
    refused(tmp_path / "net.param", f"^{tmp_path / 'net.param'}: .*{says}; readable are")


def test_weights_that_do_not_fit_into_memory(small):
    size = small.with_suffix(".bin").stat().st_size
    budget.set_memory_limit(size * 3 // 2)
    try:
        refused(small, "net.bin: its weights in fp32 needs .* --max-memory", MachineError)
    finally:
        budget.set_memory_limit(None)


def test_without_onnx_the_extra_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(small, r"pip install 'esrgan-deploy\[cpu\]'", BackendMissingError)
