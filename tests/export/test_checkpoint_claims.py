"""Checkpoints that claim more than they have: each is refused in one line, before memory or time is spent on it."""

import json
import os
import zipfile

import pytest
import safetensors.torch
import torch

from esrgan_deploy import budget
from esrgan_deploy.errors import MachineError, ModelError
from esrgan_deploy.ncnn.expressions import Expressions
from esrgan_deploy.ncnn.file import UnfitError, read_layers
from esrgan_deploy.ncnn.read import _Graph
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.networks import SRVGGNetCompact


def refused(path, says, error=ModelError):
    with pytest.raises(error, match=says) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path.with_suffix("")))


def saved(path, state, metadata=None):
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path, metadata)
    return path


def safetensors_file(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_name_that_is_all_prefix_does_not_take_hours(tmp_path, suffix):
    state = {f"{'module.' * 300_000}{key}": torch.zeros(1) for key in ("a", "b")}
    refused(saved(tmp_path / f"long{suffix}", state), "names of up to 2100001 characters")


def test_a_file_of_countless_tensors_is_no_network(tmp_path):
    state = {str(number): torch.zeros(1) for number in range(20_001)}
    refused(saved(tmp_path / "many.safetensors", state), "holds 20001 tensors")


@pytest.mark.unix("named pipes and devices")
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.param", "net.bin"])
def test_only_files_are_read(tmp_path, name):
    for other in ("net.param", "net.bin"):
        (tmp_path / other).write_text("7767517\n")
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    refused(path, "is a pipe")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "is a device")


@pytest.mark.parametrize("name", [b"a" * 1_000_000, b"\xc3\xa9" * 500_000], ids=["ascii", "unicode"])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_name_of_a_class_does_not_take_minutes(tmp_path, name, zipped):
    """PyTorch looks for the name in its own message with a pattern that takes time by its square."""
    content = b"\x80\x02c" + name + b"\nx\n)R."
    path = tmp_path / "net.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", content)
            archive.writestr("net/version", "3")
    else:
        path.write_bytes(content)
    refused(path, "names a class by 1000002 characters|altered")


def test_one_number_is_no_tensor_of_gigabytes(tmp_path):
    refused(saved(tmp_path / "wide.pth", {"w": torch.zeros(1).expand(1 << 40)}), "more elements than it has numbers")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ((1 << 60).to_bytes(8, "little"), "header claims 1152921504606846976 bytes"),
        ((20 << 20).to_bytes(8, "little") + b" " * (20 << 20), "header claims 20971520 bytes"),
    ],
    ids=["2**60", "20 MiB"],
)
def test_a_header_of_safetensors_is_in_the_file_and_small(tmp_path, header, says):
    (path := tmp_path / "net.safetensors").write_bytes(header)
    refused(path, says)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}},
        {"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40, 0], "data_offsets": [0, 0]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
        {"w": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": 5},
    ],
    ids=["terabytes", "overflow", "overlap", "type", "negative", "backwards", "number"],
)
def test_what_a_header_of_safetensors_claims_is_checked(tmp_path, tensors):
    refused(safetensors_file(tmp_path / "net.safetensors", tensors, bytes(8)), "no complete safetensors|is none of")


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"w":' * 100_000, b'"text"', b"7", b"null", b"\xff\xfe"])
def test_a_header_of_another_kind_is_refused(tmp_path, header):
    refused(safetensors_file(tmp_path / "net.safetensors", header), "no complete safetensors")


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("[" * 100_000, r"damaged esrgan\.arch"),
        ("9" * 5000, r"damaged esrgan\.arch"),
        ('{"name": "SRVGGNetCompact", "scale": 1000}', "scale=1000: that is a whole number from 1 to 64"),
        ('{"name": "RRDBNet", "blocks": 300}', "blocks=300: that is a whole number from 1 to 64"),
        ('{"name": ["RRDBNet"]}', "is unknown"),
    ],
)
def test_what_a_file_says_of_its_network_is_checked(tmp_path, arch, says):
    refused(saved(tmp_path / "net.safetensors", {"w": torch.zeros(1)}, {"esrgan.arch": arch}), says)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool])
def test_weights_are_floats(tmp_path, dtype):
    state = SRVGGNetCompact(channels=8, convs=1).state_dict()
    state["body.0.weight"] = state["body.0.weight"].to(dtype)
    refused(saved(tmp_path / "net.pth", state), f"body.0.weight holds {dtype}")


def test_weights_are_counted_before_they_are_widened(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(SRVGGNetCompact(channels=32, convs=4).half(), path)
    load_checkpoint(path)
    budget.set_memory_limit(path.stat().st_size * 3 // 2)
    try:
        refused(path, "its weights in fp32 needs .* --max-memory", MachineError)
    finally:
        budget.set_memory_limit(None)


# --- ncnn ---


def ncnn_files(folder, lines, weights=b""):
    """A graph of these lines behind its Input."""
    (folder / "net.param").write_text("\n".join(["7767517", f"{len(lines) + 1} 1", "Input in 0 1 b0", *lines]) + "\n")
    (folder / "net.bin").write_bytes(weights)
    return folder / "net.param"


@pytest.mark.parametrize(
    "lines",
    [
        [f"Concat d{n} 2 1 d{n} d{n} d{n + 1}" for n in range(60)],
        [f"Interp d{n} 1 1 d{n} d{n + 1} 0=1 1=8.0 2=8.0" for n in range(60)],
        [f"Eltwise d{n} 2 1 d{n} d{n} d{n + 1} 0=1" for n in range(18_000)],
    ],
    ids=["Concat", "Interp", "Eltwise"],
)
def test_a_graph_that_grows_without_end_is_refused_or_costs_nothing(lines):
    """Nothing of it is computed: only channels are counted, and they have an end."""
    text = "\n".join(["7767517", f"{len(lines) + 1} 1", "Input in 0 1 d0", *lines])
    graph = _Graph(Expressions(), {})
    if lines[0].startswith("Concat"):
        with pytest.raises(UnfitError, match="more than 1048576 channels"):
            graph.run(read_layers(text, b""))
    else:
        assert graph.run(read_layers(text, b""))[f"d{len(lines)}"].channels == 3


def test_a_graph_of_countless_layers_is_refused(tmp_path):
    lines = [f"Split s{n} 1 1 b{n} b{n + 1}" for n in range(20_000)]
    refused(ncnn_files(tmp_path, lines), "holds 20001 layers")


@pytest.mark.parametrize(
    "line",
    [
        "Convolution c 1 1 b0 b1 0=1000000000000 1=3 5=1 6=27000000000000",
        "PReLU p 1 1 b0 b1 0=1000000000000",
        "Convolution c 1000000000000 1 b0 b1 0=1 1=3",
        "Convolution c 1 1 b0 b1 0=1e400 1=3",
        f"Convolution c 1 1 b0 b1 0={'9' * 5000} 1=3",
    ],
)
def test_counts_of_a_graph_are_checked_against_its_weights(tmp_path, line):
    refused(ncnn_files(tmp_path, [line], bytes(16)), "truncated|is damaged|do not fill")
