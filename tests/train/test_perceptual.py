"""VGG features and the perceptual loss against VGG written out as a plain loop, and weights that do not fit."""

import hashlib
import re

import pytest

pytest.importorskip("torch", reason="losses need the 'train' extra")

import safetensors.torch
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from esrgan_deploy.errors import MachineError, ModelError, OptionError
from esrgan_train.losses import vgg
from esrgan_train.losses.perceptual import features_of, perceptual
from esrgan_train.losses.vgg import VGGFeatures, layer_names

# The published tables: configurations D and E of the paper, M = pooling.
PLAN = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def random_state(architecture, blocks=5, seed=0):
    """Weights under torchvision's names: each of "conv, ReLU" counts two, each pooling one."""
    generator = torch.Generator().manual_seed(seed)
    state, index, inputs = {}, 0, 3
    for entry in PLAN[architecture].split():
        if entry == "M":
            index, blocks = index + 1, blocks - 1
            if blocks == 0:
                break
            continue
        outputs = int(entry)
        spread = (2 / (9 * inputs)) ** 0.5
        state[f"features.{index}.weight"] = spread * torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        index, inputs = index + 2, outputs
    return state


def plain_features(state, architecture, image):
    """What every `features[K]` of torchvision's VGG returns, one after the other."""
    x, index, results = (image - IMAGENET_MEAN) / IMAGENET_STD, 0, []
    for entry in PLAN[architecture].split():
        if entry == "M":
            x = F.max_pool2d(x, 2, 2)
            results.append(x)
            index += 1
        elif f"features.{index}.weight" in state:
            x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
            results.append(x)
            x = torch.relu(x)
            results.append(x)
            index += 2
    return results


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The first two blocks of both networks, which are alike."""
    path = tmp_path_factory.mktemp("weights") / "vgg.pth"
    torch.save(random_state("vgg19", blocks=2), path)
    return path


@pytest.fixture(scope="module", params=["vgg16", "vgg19"])
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    state = random_state(request.param)
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return request.param, state, path


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_layer_is_that_of_a_plain_loop(whole, image):
    """Trap 4: the tensor before a ReLU must not be overwritten when the ReLU behind it runs as well."""
    architecture, state, path = whole
    names = layer_names(architecture)
    found = VGGFeatures(names, architecture, weights=path)(image)
    expected = plain_features(state, architecture, image)
    assert list(found) == names
    assert len(names) == len(expected)
    for name, theirs in zip(names, expected, strict=True):
        assert torch.allclose(found[name], theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item()), name


def test_layer_numbers_are_torchvisions():
    """Trap 4: conv5_4 is `features[34]`, before ReLU 35. SRGAN's VGG22 and VGG54 are behind their ReLUs."""
    names = layer_names("vgg19")
    assert (names.index("conv5_4"), names.index("relu5_4"), names.index("relu2_2"), len(names)) == (34, 35, 8, 37)
    assert (layer_names("vgg16").index("conv5_3"), len(layer_names("vgg16"))) == (28, 31)


def test_conv_is_before_the_activation_and_relu_behind(small, image):
    features = VGGFeatures(["conv2_2", "relu2_2"], weights=small)(image)
    assert features["conv2_2"].min() < 0
    assert torch.equal(features["relu2_2"], features["conv2_2"].clamp(min=0))


def test_nothing_behind_the_deepest_layer_is_built(small, image):
    extractor = VGGFeatures(["relu1_2"], weights=small)
    assert sum(weight.numel() for weight in extractor.parameters()) == (27 + 1) * 64 + (9 * 64 + 1) * 64
    assert set(extractor(image)) == {"relu1_2"}


@pytest.mark.parametrize(
    ("normalisation", "red_green_blue"),
    [
        ("torchvision", [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]),
        ("caffe", [127.5 - 123.68, 127.5 - 116.779, 127.5 - 103.939]),
    ],
)
def test_what_the_first_convolution_sees(tmp_path, normalisation, red_green_blue):
    """Trap 4: RGB in [0, 1] in; the first three outputs of this network repeat the normalised channels."""
    weight = torch.zeros(64, 3, 3, 3)
    weight[range(3), range(3), 1, 1] = 1
    torch.save({"features.0.weight": weight, "features.0.bias": torch.zeros(64)}, tmp_path / "vgg.pth")
    extractor = VGGFeatures(["conv1_1"], "vgg16", normalisation, tmp_path / "vgg.pth")
    features = extractor(torch.full((1, 3, 4, 4), 0.5))["conv1_1"]
    assert features[0, :3, 2, 2].tolist() == pytest.approx(red_green_blue, rel=1e-4)


def test_network_is_frozen_and_in_evaluation(small):
    """Trap 4."""
    extractor = VGGFeatures(["conv2_2"], weights=small)
    assert not any(weight.requires_grad for weight in extractor.parameters())
    assert not any(module.training for module in extractor.modules())


def test_only_sr_gets_a_gradient_and_values_beyond_0_and_1_do_too(small, image):
    """Trap 4: the HR branch has no graph, and nothing is clamped before VGG."""
    sr, hr = (3 * image - 1).requires_grad_(), image.clone().requires_grad_()
    sr_features, hr_features = features_of(VGGFeatures(["conv2_2"], weights=small), sr, hr)
    perceptual(sr_features, hr_features, {"conv2_2": 1.0}).backward()
    outside = (sr < 0) | (sr > 1)
    assert hr.grad is None
    assert not hr_features["conv2_2"].requires_grad
    assert outside.float().mean() > 0.5
    assert (sr.grad[outside] != 0).float().mean() > 0.99


def test_features_are_fp32_under_autocast(small, image):
    """Trap 4: BasicSR's successors had to force it. bf16 features differ in the third digit."""
    extractor = VGGFeatures(["conv1_1", "conv2_2"], weights=small)
    expected = extractor(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(image)
        loss = perceptual(found, extractor(image.bfloat16()), {"conv2_2": 1.0})
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(("criterion", "distances"), [("l1", (1.5, 0.25)), ("mse", (2.5, 0.0625))])
def test_perceptual_is_the_weighted_sum_over_layers(criterion, distances):
    sr = {"conv1_2": torch.tensor([1.0, 2.0]), "conv5_4": torch.tensor([0.25]), "unused": torch.tensor([9.0])}
    hr = {"conv1_2": torch.tensor([0.0, 0.0]), "conv5_4": torch.tensor([0.0]), "unused": torch.tensor([0.0])}
    loss = perceptual(sr, hr, {"conv1_2": 0.1, "conv5_4": 1.0}, criterion)
    assert loss.item() == pytest.approx(0.1 * distances[0] + distances[1])


def test_srgans_rescaling_of_features_is_a_weight():
    """Features times 1/12.75 are a weight of 1/12.75^2, about 0.006, on their MSE."""
    sr, hr = {"relu5_4": torch.rand(2, 4)}, {"relu5_4": torch.rand(2, 4)}
    rescaled = perceptual({"relu5_4": sr["relu5_4"] / 12.75}, {"relu5_4": hr["relu5_4"] / 12.75}, {"relu5_4": 1}, "mse")
    assert rescaled.item() == pytest.approx(perceptual(sr, hr, {"relu5_4": 12.75**-2}, "mse").item())
    assert round(12.75**-2, 3) == 0.006


@pytest.mark.parametrize("criterion", ["l1", "mse"])
def test_gradient_to_the_picture_is_that_of_finite_differences(small, criterion):
    extractor = VGGFeatures(["conv1_2", "conv2_1"], weights=small).double()
    sr, hr = torch.rand(2, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(sr):
        return perceptual(*features_of(extractor, sr, hr), {"conv1_2": 0.5, "conv2_1": 2.0}, criterion)

    assert gradcheck(loss, (sr.requires_grad_(),))


def test_safetensors_hold_the_same(small, image, tmp_path):
    safetensors.torch.save_file(torch.load(small, weights_only=True), tmp_path / "vgg.safetensors")
    ours = VGGFeatures(["conv2_2"], weights=tmp_path / "vgg.safetensors")(image)
    assert torch.equal(ours["conv2_2"], VGGFeatures(["conv2_2"], weights=small)(image)["conv2_2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["conv5_4"], "architecture": "vgg16"}, "'conv5_4' is unknown; did you mean 'conv5_3'"),
        ({"layers": ["conv54"]}, "did you mean 'conv5_4'"),
        ({"layers": ["conv5_4"], "architecture": "vgg-19"}, "did you mean 'vgg19'"),
        ({"layers": ["conv5_4"], "normalisation": "Caffe"}, "did you mean 'caffe'"),
        ({"layers": []}, "no layer"),
    ],
)
def test_options_that_cannot_be_right_name_the_nearest(arguments, message):
    with pytest.raises(OptionError, match=message):
        VGGFeatures(**arguments)


def test_pictures_too_small_for_the_layer_are_refused(small):
    extractor = VGGFeatures(["conv2_1"], weights=small)
    assert extractor(torch.rand(1, 3, 2, 2))["conv2_1"].shape[2:] == (1, 1)
    with pytest.raises(OptionError, match="2x2 pixels or more, not 8x1"):
        extractor(torch.rand(1, 3, 1, 8))


def refused(path, architecture="vgg19", layers=("conv2_2",)):
    with pytest.raises(ModelError) as caught:
        VGGFeatures(layers, architecture, weights=path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_weights_of_the_other_network_are_refused_where_the_layers_agree(whole):
    """conv2_2 has the same number and shape in both: loading it would succeed."""
    architecture, _, path = whole
    other = {"vgg16": "vgg19", "vgg19": "vgg16"}[architecture]
    assert f"they are of {architecture}" in refused(path, other)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_one_clear_line(tmp_path, damage, suffix):
    path = tmp_path / f"vgg{suffix}"
    state = random_state("vgg19", blocks=1)
    torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "text": b"<html>404</html>"}[damage])
    says = {"missing": "there is no such file", "folder": "is a folder"}
    otherwise = "is truncated, altered" if suffix == ".pth" else "is no complete file"
    assert says.get(damage, otherwise) in refused(path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "vgg.pth"
    state = random_state("vgg19", blocks=2)
    cases = {
        "holds no features.5.weight": random_state("vgg19", blocks=1),
        "features.2.bias": {key: value for key, value in state.items() if key != "features.2.bias"},
        "features.0.weight is damaged": {**state, "features.0.weight": torch.full((64, 3, 3, 3), torch.nan)},
        "features.5.weight is damaged": {**state, "features.5.weight": torch.zeros(128, 32, 3, 3)},
        "no weights of vgg19": {"conv1_1.weight": torch.zeros(64, 3, 3, 3)},
        "without batch normalisation": {**state, "features.1.weight": torch.ones(64)},
        "no state dict": {"params": state},
    }
    for message, content in cases.items():
        torch.save(content, path)
        assert message in refused(path)


def test_a_pickle_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"features.0.weight": Malicious()}, tmp_path / "vgg.pth")
    refused(tmp_path / "vgg.pth")
    assert not (tmp_path / "ran").exists()


def test_other_suffixes_are_refused(tmp_path):
    assert ".safetensors" in refused(tmp_path / "vgg.onnx")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """VGG19's address points into a folder, with the right hash; torch's cache is another folder."""
    data = tmp_path / "vgg19.pth"
    torch.save(random_state("vgg19", blocks=1), data)
    monkeypatch.setitem(vgg.SHA256, "vgg19", hashlib.sha256(data.read_bytes()).hexdigest())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(vgg.URLS, "vgg19", data.as_uri())
    return data


def test_published_weights_are_fetched_once(published, image):
    first = VGGFeatures(["conv1_2"])(image)["conv1_2"]
    published.unlink()
    assert torch.equal(VGGFeatures(["conv1_2"])(image)["conv1_2"], first)


def test_fetched_weights_are_compared_at_each_load(published, tmp_path):
    VGGFeatures(["conv1_2"])
    (cached,) = (tmp_path / "cache").rglob("*.pth")
    state = torch.load(cached, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, cached)
    with pytest.raises(
        ModelError, match=r"is not torchvision's file, whose SHA-256 is [0-9a-f]{64}; remove it"
    ) as caught:
        VGGFeatures(["conv1_2"])
    assert str(caught.value).startswith(f"{cached}: ")
    cached.unlink()
    VGGFeatures(["conv1_2"])


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_the_whole_hash_is_known(architecture):
    """torchvision puts its first eight digits into the name."""
    assert re.fullmatch(r"[0-9a-f]{64}", vgg.SHA256[architecture])
    assert vgg.URLS[architecture].endswith(f"-{vgg.SHA256[architecture][:8]}.pth")


@pytest.mark.parametrize("fault", ["gone", "altered"])
def test_failed_download_names_the_address_and_a_remedy(published, tmp_path, fault):
    if fault == "gone":
        published.unlink()
    else:
        published.write_bytes(published.read_bytes()[:-1] + b"x")
    with pytest.raises(MachineError) as caught:
        VGGFeatures(["conv1_2"])
    assert str(caught.value).startswith(published.as_uri())
    assert "fetch it elsewhere" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.p*"))
