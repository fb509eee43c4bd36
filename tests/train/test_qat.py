"""Quantisation-aware fine-tuning: its gradients, its gain, its resume, and the file that comes of it."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from esrgan_deploy.errors import MediaError, ModelError, OptionError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_export import photos, verify
from esrgan_export.checkpoint import save_checkpoint
from esrgan_export.networks import RRDBNet
from esrgan_export.photos import load_photos
from esrgan_export.quantise import calibration, prepare
from esrgan_export.quantise.simulate import QuantisedConv, quantise_weight, weight_scales
from esrgan_export.to_onnx import export_onnx
from esrgan_train.cli import main
from esrgan_train.divergence import DivergedError
from esrgan_train.initialise import initialise
from esrgan_train.qat import crops as cutting
from esrgan_train.qat import tune
from esrgan_train.qat.crops import cut_crops
from esrgan_train.qat.student import LEAST_SCALE, SCALES_FASTER, make_student, parameter_groups, with_student
from esrgan_train.qat.tune import QatSettings, fine_tune
from tiny import assert_same, hidden

SHORT = QatSettings(steps=6, batch=2, side=16, judge_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pictures of 64x64."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in load_photos().items():
        cv2.imwrite(str(folder / f"{name}.png"), photo[:64, :64, ::-1])
    return folder


@pytest.fixture(scope="module")
def crops(folder):
    found = cut_crops(folder, 16, seed=0)
    return cutting.Crops(found.training, found.held_out[:8])


@pytest.fixture(scope="module")
def network():
    """Near bilinear interpolation, and a block whose part in the output is worth rounding well."""
    torch.manual_seed(0)
    network = RRDBNet(channels=8, growth=4, blocks=1).requires_grad_(False)
    initialise(network, "interpolating")
    for name, weight in network.named_parameters():
        if name.startswith(("body", "conv_body")):
            weight *= 3
    return network.eval()


@pytest.fixture(scope="module")
def prepared(network, crops):
    info = ModelInfo(4, "fp32", 1, arch=network.config(), created_by="a test")
    return prepare(network, export_onnx(network, info), crops.validation())


def psnr_of(model, network, crops):
    """Mean square error of an ONNX graph to a network over crops, in decibels, without this project's metrics."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    errors = []
    for crop in crops:
        with torch.inference_mode():
            wanted = network(crop).clamp(0, 1).numpy()
        errors.append(np.square(session.run(None, {"input": crop.numpy()})[0] - wanted).mean())
    return -10 * np.log10(np.mean(errors))


FACTORS = torch.tensor([0.5, 1.0, 2.0])
"""What the input channels of `one_conv` are multiplied by before they are rounded."""


def one_conv(scale):
    """A convolution in float64 that rounds, an input, and what weighs its output in a loss."""
    torch.manual_seed(1)
    conv = QuantisedConv(torch.nn.Conv2d(3, 2, 3, padding=1), scale, FACTORS).double()
    return conv, torch.randn(1, 3, 5, 6).double(), torch.randn(1, 2, 5, 6).double()


def rounded_kernel(conv):
    """The weights that `conv` computes with, on its rescaled input."""
    kernel = conv.conv.weight.detach() / FACTORS[:, None, None]
    return quantise_weight(kernel) * weight_scales(kernel)


def differences(function, values, step=1e-6):
    """Central finite differences of a function of a tensor."""
    slopes = torch.empty_like(values)
    for at in range(values.numel()):
        up, down = values.clone(), values.clone()
        up.view(-1)[at] += step
        down.view(-1)[at] -= step
        slopes.view(-1)[at] = (function(up) - function(down)) / (2 * step)
    return slopes


def test_gradient_of_weights_is_that_of_the_rounded_weights():
    """Straight through: the loss is smooth in what the weights are rounded to."""
    conv, x, weighing = one_conv(0.01)
    (conv(x) * weighing).tanh().sum().backward()
    scale = conv.input_scale.detach()
    assert float(scale) == pytest.approx(0.01, rel=1e-6)
    read = (x * FACTORS[:, None, None] / scale).round().clamp(-127, 127) * scale

    def loss(kernel):
        return (F.conv2d(read, kernel, conv.conv.bias.detach(), padding=1) * weighing).tanh().sum()

    slopes = differences(loss, rounded_kernel(conv)) / FACTORS[:, None, None]
    torch.testing.assert_close(conv.conv.weight.grad, slopes, rtol=1e-6, atol=1e-6)


def test_gradient_of_a_scale_is_the_formula_of_lsq():
    """Esser et al. 2020, equation 3: round(v / s) - v / s between the clips, and the code at them."""
    conv, x, weighing = one_conv(0.01)
    (conv(x) * weighing).tanh().sum().backward()
    scale = conv.input_scale.detach()
    exact = x * FACTORS[:, None, None] / scale
    codes, inside = exact.round().clamp(-127, 127), exact.abs() <= 127
    assert 0.5 < float(inside.double().mean()) < 0.95
    read = (codes * scale).requires_grad_()
    output = F.conv2d(read, rounded_kernel(conv), conv.conv.bias.detach(), padding=1)
    (output * weighing).tanh().sum().backward()
    formula = torch.where(inside, codes - exact, 127.0 * x.sign())
    assert float(conv.input_scale.grad) == pytest.approx(float((read.grad * formula).sum()), rel=1e-9)


def test_gradient_of_a_scale_at_the_clip_is_that_of_finite_differences():
    """Where everything is clipped, nothing is rounded, and the loss is smooth in the scale."""
    conv, x, weighing = one_conv(1e-5)
    (conv(x) * weighing).tanh().sum().backward()
    scale = conv.input_scale.detach().clone()
    assert ((x * FACTORS[:, None, None] / scale).abs() > 128).all()

    def loss(value):
        conv.input_scale.data = value
        with torch.no_grad():
            return (conv(x) * weighing).tanh().sum()

    torch.testing.assert_close(conv.input_scale.grad, differences(loss, scale, 1e-8), rtol=1e-6, atol=1e-6)


def test_gradient_of_a_bias_is_that_of_finite_differences(prepared, crops):
    """Behind the last rounding a whole student is smooth."""
    student, batch = make_student(prepared).double(), crops.batch(0, 0, 1).double()
    student(batch).tanh().sum().backward()
    last = student.get_submodule("conv_last")
    bias = getattr(last, "conv", last).bias  # it may have stayed float
    gradient = bias.grad.clone()

    def loss(value):
        bias.data = value
        with torch.no_grad():
            return student(batch).tanh().sum()

    torch.testing.assert_close(gradient, differences(loss, bias.detach().clone()), rtol=1e-6, atol=1e-6)


def test_a_group_has_one_scale_whose_gradient_is_the_sum(prepared, crops):
    together, apart = make_student(prepared), prepared.student().requires_grad_(True)
    batch = crops.batch(0, 0, 1)
    for student in (together, apart):
        student(batch).tanh().sum().backward()
    dense = [group for group in prepared.groups if len(group.readers) == 5]
    assert len(dense) == 3
    for group in dense:
        single = [apart.get_submodule(name).input_scale.grad for name in group.readers]
        shared = {together.get_submodule(name).input_scale for name in group.readers}
        assert len(shared) == 1
        torch.testing.assert_close(shared.pop().grad, torch.stack(single).sum(), rtol=1e-3, atol=1e-4)
        assert all(abs(float(gradient)) > 1e-4 for gradient in single)


def test_every_tensor_is_learned_once_at_a_rate_of_its_own(prepared):
    student = make_student(prepared)
    groups = parameter_groups(student, 0.01)
    learned = [group["params"][0] for group in groups]
    assert len({id(tensor) for tensor in learned}) == len(learned)
    convs = sum(isinstance(module, torch.nn.Conv2d) for module in student.modules())
    rounded = [group for group in prepared.groups if not prepared.kept.keys() >= group.readers.keys()]
    assert len(learned) == 2 * convs + len(rounded)
    name = rounded[-1].name
    scale = student.get_submodule(name).input_scale
    (rate,) = (group["base"] for group in groups if group["params"][0] is scale)
    assert rate == pytest.approx(0.01 * SCALES_FASTER * prepared.scales[name])


def test_untrained_it_is_what_it_was(prepared):
    same = with_student(prepared, make_student(prepared), 0.0)
    assert same.model == prepared.model
    assert same.scales == pytest.approx(dict(prepared.scales), rel=1e-7)
    assert type(same.network) is type(prepared.network)


@pytest.mark.parametrize(("coarser", "gain_db"), [(1, 0.3), (2, 3.0)])
def test_fine_tuning_comes_nearer_to_the_float_network(network, prepared, crops, tmp_path, coarser, gain_db):
    """By the INT8 graph in ONNX Runtime, against the network as it was before anything was rescaled.

    On the grid that `prepare` chose, and on one of twice its steps, which costs 6 dB.
    """
    start = dataclasses.replace(prepared, scales={name: scale * coarser for name, scale in prepared.scales.items()})
    lines = []
    settings = QatSettings(steps=30, batch=2, side=16, judge_every=10)
    tuned = fine_tune(start, crops, settings, tmp_path / "run.pt", progress=lines.append)
    before, after = (psnr_of(each.quantised(), network, crops.validation()) for each in (start, tuned))
    assert after >= before + gain_db
    assert tuned.psnr_db == pytest.approx(after, abs=0.3)
    assert lines[-1].startswith(f"INT8 to fp32 on held-out crops: {lines[0].split()[2]} dB before")
    for group in tuned.groups:
        assert len({tuned.scales[name] for name in group.readers if name in tuned.scales}) <= 1


def test_it_never_gets_worse(prepared, crops, tmp_path):
    """At an absurd rate every step spoils the network: the weights that came in are the best."""
    tuned = fine_tune(
        prepared, crops, QatSettings(steps=2, batch=1, side=16, rate=0.1, judge_every=1), tmp_path / "run.pt"
    )
    assert tuned.model == prepared.model
    assert tuned.scales == pytest.approx(dict(prepared.scales), rel=1e-7)
    spoilt = torch.load(tmp_path / "run.pt", weights_only=True)
    assert any(not torch.equal(spoilt["student"][key], value) for key, value in spoilt["best"].items())


def test_scales_stay_positive(prepared, crops, tmp_path, monkeypatch):
    """A loss that is least where everything is clipped to nothing pulls them down."""
    monkeypatch.setattr(tune, "l1", lambda sr, hr: sr.square().mean())
    fine_tune(prepared, crops, QatSettings(steps=3, batch=1, side=16, rate=0.01), tmp_path / "run.pt")
    student = torch.load(tmp_path / "run.pt", weights_only=True)["student"]
    shares = [float(student[f"{name}.input_scale"]) / scale for name, scale in prepared.scales.items()]
    assert min(shares) == pytest.approx(LEAST_SCALE)


def interrupt_in_step(monkeypatch, number):
    """This process gets SIGTERM while it computes the loss of step `number`, counted from 1."""
    real, count = tune.l1, iter(range(1, 1000))

    def interrupted(sr, hr):
        if next(count) == number:
            signal.raise_signal(signal.SIGTERM)
        return real(sr, hr)

    monkeypatch.setattr(tune, "l1", interrupted)


def test_a_run_in_two_halves_is_the_run(prepared, crops, tmp_path, monkeypatch):
    """Interrupted between two validations."""
    whole = fine_tune(prepared, crops, SHORT, tmp_path / "whole.pt")
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 3)
        with pytest.raises(KeyboardInterrupt, match=r"3 of 6 steps are in .*halves\.pt; go on with --resume"):
            fine_tune(prepared, crops, SHORT, tmp_path / "halves.pt")
    assert torch.load(tmp_path / "halves.pt", weights_only=True)["step"] == 3
    (tmp_path / ".halves.01234567.part.pt").touch()  # as if it had been killed while it saved, later on
    halves = fine_tune(prepared, crops, SHORT, tmp_path / "halves.pt", resume=True)
    assert halves.model == whole.model
    assert halves.scales == whole.scales
    assert_same(*(torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "halves")))
    assert hidden(tmp_path) == []


def test_a_state_that_cannot_be_gone_on_with(prepared, crops, tmp_path):
    state = tmp_path / "run.pt"
    short = QatSettings(steps=1, batch=1, side=16)
    fine_tune(prepared, crops, short, state)
    with pytest.raises(OptionError, match="holds a run already; go on with it by --resume"):
        fine_tune(prepared, crops, short, state)
    with pytest.raises(OptionError, match=r"run\.pt: belongs to another run: steps was 1 and is 2"):
        fine_tune(prepared, crops, QatSettings(steps=2, batch=1, side=16), state, resume=True)
    others = cutting.Crops(crops.training[:-1], crops.held_out)
    with pytest.raises(OptionError, match="another run: pictures was"):
        fine_tune(prepared, others, short, state, resume=True)
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"run\.pt: is truncated, .*; remove it and begin again$"):
        fine_tune(prepared, crops, short, state, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(prepared, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "l1", lambda sr, hr: (sr - hr).sum() * float("nan"))
    with pytest.raises(DivergedError, match="step 1 has a loss of nan; begin again with a lower --lr"):
        fine_tune(prepared, crops, SHORT, tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_held_out_crops_come_from_other_pictures(tmp_path):
    """Each picture of one colour; the fourth and the eighth are held out, and 16 bit is read as 8."""
    for number in range(9):
        depth, top = (np.uint16, 257) if number == 2 else (np.uint8, 1)
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 24, 3), number * 10 * top, depth))
    found = cut_crops(tmp_path, 16, seed=0)
    assert found.training.shape[1:] == found.held_out.shape[1:] == (16, 16, 3)
    assert set(found.held_out.flat) == {30, 70}
    assert set(found.training.flat) == {0, 10, 20, 40, 50, 60, 80}
    assert len(found.validation()) == cutting.HELD_OUT_CROPS


def test_batches_are_numbered_and_turned(tmp_path):
    """A ramp along both axes tells all eight orientations apart."""
    ramp = (np.arange(16)[:, None] * 10 + np.arange(16)[None]).astype(np.uint8)
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.dstack([ramp] * 3))
    found = cut_crops(tmp_path, 16, seed=0)
    batch = found.batch(0, 7, 64)
    assert torch.equal(batch, found.batch(0, 7, 64))
    assert not torch.equal(batch, found.batch(0, 8, 64))
    assert not torch.equal(batch, found.batch(1, 7, 64))
    turned = {tuple(np.rint(crop[0].numpy() * 255).astype(int).flat) for crop in batch}
    wanted = {tuple(view.flat) for way in (ramp, ramp.T) for view in (way, way[::-1], way[:, ::-1], way[::-1, ::-1])}
    plain = {tuple(map(int, view)) for view in wanted}
    assert turned > plain, "and some in strong colours"


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([(64, 64)], "holds one picture only; give two or more"),
        ([(64, 64), (20, 15)], r"b\.png: is 15x20, smaller than"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path, sizes, says):
    for name, size in zip("ab", sizes, strict=False):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((*size, 3), np.uint8))
    with pytest.raises(MediaError, match=says):
        cut_crops(tmp_path, 16, seed=0)


def test_the_command_writes_a_verified_artefact(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "CROPS", 8)
    monkeypatch.setattr(verify, "load_photos", lambda: {"dogs": load_photos()["dogs"]})
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("dogs", "bottle"):
        shutil.copy(Path(photos.__file__).with_name(f"{name}.png"), folder)
    save_checkpoint(network, tmp_path / "tiny_x4.safetensors")
    words = ["qat", "--gan", tmp_path / "tiny_x4.safetensors", "--calibrate", folder, "-o", tmp_path / "out"]
    words = [*map(str, words), "--steps", "2", "--batch", "1"]
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 1)
        assert main(words) == 130
    state = tmp_path / "out" / "tiny_x4_int8.qat.pt"
    assert list(state.parent.iterdir()) == [state]
    assert f"interrupted; 1 of 2 steps are in {state}; go on with --resume" in capsys.readouterr().err
    assert main(words) == 2
    assert f"{state}: holds a run already" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    path = state.with_name("tiny_x4_int8.onnx")
    assert sorted(state.parent.iterdir()) == [path, path.with_suffix(".report.json")]
    assert load_onnx(path)[1].precision == "int8"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    report = json.loads(path.with_suffix(".report.json").read_text())
    assert report["passed"]
    assert report["worst_psnr_db"] > 34


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--alpha", "0.8"], "the following arguments are required: --calibrate"),
        (["--alpha", "0.8", "--calibrate", "x", "--lr", "1"], "argument --lr: 1 is not between 0 and 1"),
        (["--alpha", "0.8", "--calibrate", "x", "--steps", "0"], "argument --steps: '0' is not a whole number from 1"),
    ],
)
def test_options_that_cannot_be(capsys, words, says):
    with pytest.raises(SystemExit, match="2"):
        main(["qat", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"esrgan-train qat: {says}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "two checkpoints need --alpha A, the GAN's share, for instance --alpha 0.8"),
        (["--alpha", "0.8"], "{folder}: is no folder"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, words, says):
    folder = tmp_path / "none"
    assert main(["qat", *words, "--calibrate", str(folder), "-o", str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"esrgan-train qat: {says.format(folder=folder)}")
    assert list(tmp_path.iterdir()) == []
