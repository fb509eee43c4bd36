"""Checkpoints in every dialect and wrapper, round trips, lineage, and files that are not what they should be."""

import hashlib
import json
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from esrgan_deploy.errors import ModelError, OutputError
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.networks import MSRResNet, RRDBNet, SRResNet, SRVGGNetCompact

IMAGE = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def output_of(network):
    with torch.no_grad():
        return network.eval()(IMAGE)


@pytest.fixture
def rrdbnet():
    return RRDBNet(channels=8, growth=4, blocks=2)


def assert_same(network, other):
    assert network.config() == other.config()
    state, expected = network.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


class OldDenseBlock(nn.Module):
    """As in ESRGAN's first code: every convolution is a Sequential with its activation."""

    def __init__(self, channels, growth):
        super().__init__()
        for k in range(5):
            conv = nn.Conv2d(channels + k * growth, growth if k < 4 else channels, 3, padding=1)
            self.add_module(f"conv{k + 1}", nn.Sequential(conv, *([nn.LeakyReLU(0.2)] if k < 4 else [])))

    def forward(self, x):
        known = [x]
        for conv in self.children():
            known.append(conv(torch.cat(known, 1)))
        return x + 0.2 * known[-1]


class OldRRDB(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (OldDenseBlock(channels, growth) for _ in range(3))

    def forward(self, x):
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class OldShortcut(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.sub = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.sub(x)


class OldRRDBNet(nn.Module):
    """One numbered Sequential: the numbers behind the trunk depend on the upsampling steps."""

    def __init__(self, channels, growth, blocks, steps):
        super().__init__()

        def conv(inputs, outputs):
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        trunk = [*(OldRRDB(channels, growth) for _ in range(blocks)), conv(channels, channels)]
        up = [
            layer
            for _ in range(steps)
            for layer in (nn.Upsample(scale_factor=2.0), conv(channels, channels), nn.LeakyReLU(0.2))
        ]
        tail = [conv(channels, channels), nn.LeakyReLU(0.2), conv(channels, 3)]
        self.model = nn.Sequential(conv(3, channels), OldShortcut(*trunk), *up, *tail)

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize(("steps", "last_key"), [(2, "model.10.bias"), (3, "model.13.bias")])
def test_old_rrdbnet_keeps_its_function(tmp_path, steps, last_key):
    old = OldRRDBNet(channels=6, growth=3, blocks=2, steps=steps)
    assert list(old.state_dict())[-1] == last_key
    torch.save(old.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    checkpoint = load_checkpoint(tmp_path / "old.pth")
    assert checkpoint.network.config() == RRDBNet(6, 3, 2, 2**steps).config()
    torch.testing.assert_close(output_of(checkpoint.network), output_of(old))


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (
            RRDBNet(6, 3, 2, 8),
            {
                r"body\.(\d)\.rdb(\d)": r"RRDB_trunk.\1.RDB\2", "conv_body": "trunk_conv", "conv_up": "upconv",
                "conv_hr": "HRconv",
            },
        ),
        (MSRResNet(6, 2, 4), {r"^body\.": "recon_trunk.", "conv_hr": "HRconv"}),
    ],
    ids=["RRDBNet", "MSRResNet"],
)  # fmt: skip
def test_middle_dialect(tmp_path, network, names):
    state = network.state_dict()
    for new, middle in names.items():
        state = {re.sub(new, middle, key): tensor for key, tensor in state.items()}
    assert not {"body.0.conv1.weight", "body.0.rdb1.conv1.weight", "conv_hr.weight"} & state.keys()
    torch.save(state, tmp_path / "middle.pth")
    assert_same(load_checkpoint(tmp_path / "middle.pth").network, network)


@pytest.mark.parametrize(
    "network",
    [RRDBNet(6, 3, 1, scale, block) for scale in (1, 2) for block in ("dense", "residual")]
    + [SRVGGNetCompact(6, 2, 2), SRResNet(6, 1), MSRResNet(6, 1, 3)],
    ids=lambda network: "-".join(str(value) for value in network.config().values()),
)
def test_every_network_is_found_in_a_bare_pth(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    checkpoint = load_checkpoint(tmp_path / "bare.pth")
    assert checkpoint.kind == "bare"
    assert_same(checkpoint.network, network)


def test_loaded_network_is_ready_for_inference(tmp_path, rrdbnet):
    half = {key: tensor.half() for key, tensor in rrdbnet.state_dict().items()}
    torch.save({"params": half}, tmp_path / "half.pth")
    network = load_checkpoint(tmp_path / "half.pth").network
    assert not network.training
    assert {(p.dtype, p.requires_grad, p.is_contiguous()) for p in network.parameters()} == {
        (torch.float32, False, True)
    }
    assert torch.equal(network.conv_hr.weight, half["conv_hr.weight"].float())


@pytest.mark.parametrize(
    ("wrappers", "kind"),
    [
        (["state_dict", "params", "params_ema"], "params_ema"),
        (["state_dict", "params"], "params"),
        (["state_dict"], "bare"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_most_wanted_wrapper_wins(tmp_path, wrappers, kind, prefix):
    networks = [RRDBNet(8, 4, 1) for _ in wrappers]
    content = {
        wrapper: OrderedDict((prefix + key, tensor) for key, tensor in network.state_dict().items())
        for wrapper, network in zip(wrappers, networks, strict=True)
    }
    torch.save({"iter": 5, **content}, tmp_path / "wrapped.pth")
    checkpoint = load_checkpoint(tmp_path / "wrapped.pth")
    assert checkpoint.kind == kind
    assert_same(checkpoint.network, networks[-1])


def test_safetensors_round_trip(tmp_path, rrdbnet):
    path = tmp_path / "net.safetensors"
    save_checkpoint(rrdbnet, path, parent_sha256="ab" * 32, kind="params")
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.network, rrdbnet)
    assert (checkpoint.path, checkpoint.kind, checkpoint.parent_sha256) == (path, "params", "ab" * 32)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_saved_architecture_tells_what_shapes_cannot(tmp_path):
    network = SRVGGNetCompact(6, 2, 2, activation="leakyrelu")
    save_checkpoint(network, tmp_path / "leaky.safetensors")
    assert load_checkpoint(tmp_path / "leaky.safetensors").network.config() == network.config()
    torch.save(network.state_dict(), tmp_path / "leaky.pth")
    with pytest.raises(ModelError, match="does not tell which"):
        load_checkpoint(tmp_path / "leaky.pth")


def test_same_weights_give_the_same_file(tmp_path, rrdbnet):
    for k in range(6):
        save_checkpoint(rrdbnet, tmp_path / f"{k}.safetensors", parent_sha256="0" * 64)
    assert len({load_checkpoint(tmp_path / f"{k}.safetensors").sha256 for k in range(6)}) == 1


def test_foreign_safetensors(tmp_path, rrdbnet):
    safetensors.torch.save_file(rrdbnet.state_dict(), tmp_path / "foreign.safetensors")
    checkpoint = load_checkpoint(tmp_path / "foreign.safetensors")
    assert (checkpoint.kind, checkpoint.parent_sha256) == ("bare", None)
    assert_same(checkpoint.network, rrdbnet)


@pytest.mark.parametrize("wrapped", [True, False])
def test_parent_beside_the_weights_of_a_pth(tmp_path, rrdbnet, wrapped):
    state = rrdbnet.state_dict()
    torch.save({**({"params": state} if wrapped else state), "parent_sha256": "0f" * 32}, tmp_path / "child.pth")
    checkpoint = load_checkpoint(tmp_path / "child.pth")
    assert checkpoint.parent_sha256 == "0f" * 32
    assert_same(checkpoint.network, rrdbnet)


def test_save_refuses_other_suffixes_and_folders(tmp_path, rrdbnet):
    (tmp_path / "folder.safetensors").mkdir()
    for path, says in [(tmp_path / "net.pth", "change the suffix"), (tmp_path / "folder.safetensors", "is a folder")]:
        with pytest.raises(OutputError, match=says):
            save_checkpoint(rrdbnet, path)


def refused(path, *says):
    """The one line that refuses `path`; it must name the file and hold every part of `says`."""
    with pytest.raises(ModelError) as info:
        load_checkpoint(path)
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for part in says:
        assert part in message
    return message


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "is empty"), (b"just some text\n", "altered"), (b"PK\x03\x04" + bytes(99), "altered")],
    ids=["empty", "text", "zip"],
)
def test_files_of_another_kind(tmp_path, suffix, data, says):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data)
    refused(path, says, "download or copy it again")


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "missing.pth", "No such file")
    refused(tmp_path / "folder.pth", "is a folder")
    refused(tmp_path / "model.txt", "give a .safetensors, .pth or .pt file")
    refused(tmp_path / "model.onnx", "give the checkpoint that it was made from")


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("new_format", [True, False])
def test_pickle_bomb_does_not_run(tmp_path, new_format):
    marker = tmp_path / "the bomb ran"
    torch.save({"params": Bomb(marker)}, tmp_path / "bomb.pth", _use_new_zipfile_serialization=new_format)
    refused(tmp_path / "bomb.pth", "holds io.open, which is code", "was not run")
    assert not marker.exists()
    torch.load(tmp_path / "bomb.pth", weights_only=False)["params"].close()
    assert marker.exists(), "the bomb is a dud, so the test proves nothing"


def save_changed(path, network, **changes):
    """The network's state dict with tensors replaced, or removed where the value is None."""
    state = network.state_dict() | {key.replace("__", "."): value for key, value in changes.items()}
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"body__0__rdb2__conv3__bias": None, "body__1__rdb1__conv1__weight": None},
            ["missing body.0.rdb2.conv3.bias and 1 more"],
        ),
        ({"extra__weight": torch.zeros(1)}, ["does not fit RRDBNet(channels=8", "unexpected extra.weight"]),
        ({"conv_hr__weight": None, "HR__weight": torch.zeros(1)}, ["missing conv_hr.weight", "unexpected HR.weight"]),
        ({"conv_hr__weight": torch.zeros(8, 9, 3, 3)}, ["conv_hr.weight is 8x9x3x3 instead of 8x8x3x3"]),
        ({"conv_hr__weight": torch.zeros(8, 8, 3, 3, dtype=torch.int8)}, ["conv_hr.weight holds torch.int8"]),
        ({"conv_first__weight": torch.zeros(8)}, ["conv_first.weight has shape (8,), so it is no convolution"]),
        ({"conv_up2__weight": None}, ["3 input channels and 1 x2 steps"]),
        ({"body__99999999__rdb1__conv1__weight": torch.zeros(1)}, ["blocks=100000000", "from 1 to 64"]),
        ({"body__0__rdb1__conv1x1__weight": torch.zeros(4, 8, 1, 1)}, ["ESRGAN+", "conv1x1"]),
        ({"conv_hr__bias": torch.tensor([float("nan"), float("inf"), *[0.0] * 6])}, ["'conv_hr.bias' has 2", "NaN"]),
        ({"conv_hr__bias": torch.full((8,), 1e300, dtype=torch.float64)}, ["'conv_hr.bias' has 8", "infinite"]),
        ({"step": 7}, ["'step' is a int", "params_ema"]),
        ({"parent_sha256": "abc"}, ["parent_sha256 is 'abc'"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, rrdbnet, changes, says):
    refused(save_changed(tmp_path / "changed.pth", rrdbnet, **changes), *says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "is none of RRDBNet"),
        ({"net.0.weight": torch.zeros(2)}, "begin with net.0.weight"),
        ({"params": {1: torch.zeros(2)}}, "entry 1 is a Tensor"),
        ({"params": {"a": torch.zeros(2, device="meta")}}, "no plain array of numbers"),
    ],
)
def test_pickles_without_a_network(tmp_path, content, says):
    torch.save(content, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", says)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"esrgan.arch": "{"}, "damaged esrgan.arch"),
        ({"esrgan.arch": "[1]"}, "impossible esrgan metadata"),
        ({"esrgan.arch": json.dumps({"name": "RRDBNet", "channels": 64.5})}, "cannot be built"),
        ({"esrgan.arch": json.dumps({"name": "EDSR"})}, "'EDSR' is unknown"),
        ({"esrgan.kind": "best"}, "impossible esrgan metadata"),
        ({"esrgan.parent_sha256": "0"}, "not a SHA-256"),
    ],
)
def test_damaged_metadata(tmp_path, rrdbnet, metadata, says):
    safetensors.torch.save_file(rrdbnet.state_dict(), tmp_path / "odd.safetensors", metadata)
    refused(tmp_path / "odd.safetensors", says)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    network = RRDBNet(2, 1, 1)
    torch.save({"params": network.state_dict()}, folder / "zip.pth")
    torch.save(network.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_checkpoint(network, folder / "net.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FILES = st.sampled_from(["zip.pth", "legacy.pth", "net.safetensors"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=FILES, share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path, small_files, name, share):
    data = small_files[name]
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    refused(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=FILES, share=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=6))
def test_a_damaged_file_loads_or_is_refused_in_one_line(tmp_path, small_files, name, share, value):
    data = bytearray(small_files[name])
    start = int(share * len(data))
    data[start : start + len(value)] = value
    (tmp_path / name).write_bytes(data)
    try:
        network = load_checkpoint(tmp_path / name).network
    except ModelError:
        refused(tmp_path / name)
    else:
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_loading_leaves_the_random_state_alone(tmp_path, rrdbnet):
    torch.save(rrdbnet.state_dict(), tmp_path / "net.pth")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "net.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_ncnn_pair_is_found_from_either_file(ncnn_folder, animevideo):
    other = load_checkpoint(ncnn_folder / "REALESRGAN_ANIMAVIDEOV3_UP4X.bin")
    assert (other.kind, other.sha256) == (animevideo.kind, animevideo.sha256)
    assert other.kind == "ncnn"
    # sha256sum of the .bin
    assert other.sha256 == "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
    assert_same(other.network, animevideo.network)


def test_ncnn_without_its_partner(tmp_path):
    (tmp_path / "lonely.param").write_text("7767517\n")
    refused(tmp_path / "lonely.param", "lonely.bin is missing beside it")


def test_training_code_can_store_a_network_on_its_way(tmp_path, rrdbnet):
    """Gradients, training mode and non-contiguous weights do not matter."""
    rrdbnet.train().conv_hr.weight.data = rrdbnet.conv_hr.weight.data.transpose(2, 3)
    save_checkpoint(rrdbnet, tmp_path / "net.safetensors")
    assert_same(load_checkpoint(tmp_path / "net.safetensors").network, rrdbnet)
