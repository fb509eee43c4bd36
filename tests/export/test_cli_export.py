"""esrgan-export, called as a user calls it."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from onnx import numpy_helper

from esrgan_deploy.model import load_onnx
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.cli.export import main
from small_networks import small_network


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A PSNR checkpoint and a GAN that is a small step away from it; a network of another shape; a stranger."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(small_network("srvgg"), folder / "psnr.safetensors")
    gan = small_network("srvgg")
    for parameter in gan.parameters():
        parameter *= 1.01
    save_checkpoint(gan, folder / "gan.safetensors")
    save_checkpoint(small_network("rrdb"), folder / "other.safetensors")
    save_checkpoint(small_network("srvgg", seed=5), folder / "stranger.safetensors")
    return folder


@pytest.fixture
def export(checkpoints, tmp_path, capsys, monkeypatch):
    """Run the command in the folder of the checkpoints; returns exit code, stdout and stderr. Output goes to `out`."""
    monkeypatch.chdir(checkpoints)

    def run(*arguments):
        try:
            code = main([*map(str, arguments), *([] if "-o" in arguments else ["-o", str(tmp_path / "out")])])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_one_checkpoint_as_it_is(export, checkpoints, tmp_path):
    code, out, err = export("--gan", "gan.safetensors", "--fp16")
    assert code == 0, err
    path = tmp_path / "out" / "gan_x4_fp16.onnx"
    model, info = load_onnx(path)
    assert (info.precision, info.alpha, info.psnr_sha256) == ("fp16", None, None)
    assert info.gan_sha256 == load_checkpoint(checkpoints / "gan.safetensors").sha256
    assert info.arch == load_checkpoint(checkpoints / "gan.safetensors").network.config()
    assert {tensor.data_type for tensor in model.graph.initializer} == {10}
    for expected in (str(path), "50 dB required of fp16: passed", "gan_x4_fp16.report.json"):
        assert expected in out
    assert json.loads((tmp_path / "out" / "gan_x4_fp16.report.json").read_text())["passed"] is True
    assert "seam with an overlap of 8 px" in err


def test_several_alphas_in_one_call(export, checkpoints, tmp_path):
    code, out, err = export(
        *(
            "--psnr",
            "psnr.safetensors",
            "--gan",
            "gan.safetensors",
            "--alpha",
            "0.8",
            "0.805",
            "0.80",
            "--name",
            "blend",
        )
    )
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").glob("*.onnx")) == [
        "blend_x4_a0.805_fp32.onnx",
        "blend_x4_a0.80_fp32.onnx",
    ]
    assert out.count("worst photo") == 2  # 0.8 and 0.80 are one
    model, info = load_onnx(tmp_path / "out" / "blend_x4_a0.805_fp32.onnx")
    assert info.alpha == 0.805
    states = [load_checkpoint(checkpoints / f"{n}.safetensors").network.state_dict() for n in ("psnr", "gan")]
    assert [tensor.name for tensor in model.graph.initializer] == list(states[0])
    for tensor in model.graph.initializer:
        psnr, gan = (state[tensor.name].double().numpy().squeeze() for state in states)
        values = numpy_helper.to_array(tensor).squeeze()
        np.testing.assert_allclose(values, 0.195 * psnr + 0.805 * gan, rtol=1e-5, atol=1e-7)


def test_shapes_show_in_the_name(export, tmp_path):
    assert export("--psnr", "psnr.safetensors", "--shape", "64x48", "--dynamic-batch")[0] == 0
    model, _ = load_onnx(tmp_path / "out" / "psnr_x4_fp32_64x48_batch.onnx")
    dims = [d.dim_value or d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", 3, 48, 64]


def test_comparison_is_drawn(export, tmp_path):
    arguments = ("--psnr", "psnr.safetensors", "--gan", "stranger.safetensors", "--alpha", "0.5", "--comparison")
    code, _, err = export(*arguments)
    assert code == 0
    assert "warning" in err
    assert "look unrelated" in err
    picture = cv2.imread(str(tmp_path / "out" / "stranger_x4_a0.50_fp32.comparison.png"))
    assert picture.shape == (96 * 4 + 28, 4 * 128 * 4, 3)
    psnr, network, image, gan = np.split(picture[28:].astype(int), 4, axis=1)
    assert np.abs(image - (psnr + gan) / 2).max() <= 1.5
    assert np.abs(network - image).mean() > 1  # the two kinds of interpolation differ


BOTH = ("--psnr", "psnr.safetensors", "--gan", "gan.safetensors")
BAD_INPUT = {
    "default pair without its share": ((), "--alpha A"),
    "two without alpha": (BOTH, "--alpha A"),
    "alpha too large": ((*BOTH, "--alpha", "1.5"), "1.5 is not in [0, 1]"),
    "alpha nan": ((*BOTH, "--alpha", "nan"), "nan is not in [0, 1]"),
    "alpha no number": ((*BOTH, "--alpha", "half"), "'half' is not a number"),
    "alpha with one network": (("--gan", "gan.safetensors", "--alpha", "0.8"), "--psnr"),
    "comparison with one network": (("--gan", "gan.safetensors", "--comparison"), "--psnr"),
    "different networks": (("--psnr", "other.safetensors", "--gan", "gan.safetensors", "--alpha", "1"), "different"),
    "missing file": (("--gan", "absent.pth"), "absent.pth: cannot be read"),
    "two precisions": (("--gan", "gan.safetensors", "--fp16", "--bf16"), "not allowed with"),
    "unknown option": (("--gan", "gan.safetensors", "--int4"), "--int4"),
    "shape of one number": (("--gan", "gan.safetensors", "--shape", "640"), "'640' is not WxH"),
    "shape of thirty digits": (("--gan", "gan.safetensors", "--shape", f"{10**30}x1"), "is no size of a frame"),
    "huge shape": (("--gan", "gan.safetensors", "--shape", "8x99999"), "sides go from 1 to 65536"),
    "empty shape": (("--gan", "gan.safetensors", "--shape", "0x0"), "0x0"),
    "a path as name": (("--gan", "gan.safetensors", "--name", "a/b"), "is not a file name"),
    "output is a file": (("--gan", "gan.safetensors", "-o", "psnr.safetensors"), "is a file"),
    "output below a file": (("--gan", "gan.safetensors", "-o", "psnr.safetensors/x"), "cannot be made"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_line_and_exit_code_2(export, case, tmp_path):
    arguments, expected = BAD_INPUT[case]
    code, out, err = export(*arguments)
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if not line.startswith("[")]  # progress
    assert len(errors) == 1
    assert errors[0].startswith("esrgan-export: ")
    assert expected in errors[0]
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"PK\x03\x04 cut off", "is truncated, altered, or no file of PyTorch")],
)
def test_damaged_checkpoints(export, tmp_path, content, expected):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    code, _, err = export("--gan", path)
    assert code == 2
    assert f"{path}: {expected}" in err


def test_a_name_without_room_for_the_report_is_refused_before_the_export(export, tmp_path):
    code, _, err = export("--gan", "gan.safetensors", "--name", "x" * 240)
    assert code == 2
    assert ".report.json: a name of 260 bytes in it is too long" in err
    assert "tracing" not in err
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.unix("makes a folder that only root may write")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(export, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    code, _, err = export("--gan", "gan.safetensors", "-o", folder)
    assert code == 2
    assert "is not writable" in err


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom esrgan_export.cli.export import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'onnx', 'cv2', 'safetensors', 'onnxruntime'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.startswith("usage: esrgan-export")
    assert out.endswith("[]\n")
