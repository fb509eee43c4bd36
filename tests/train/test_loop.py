"""A run from its first step to its last: averages, parents, losses that are not finite, the log, and two truths."""

import itertools
import math
from statistics import fmean

import pytest
import torch
from lightning_fabric import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from esrgan_deploy import EsrganError, MachineError, OptionError
from esrgan_export.checkpoint import load_checkpoint, save_checkpoint
from esrgan_export.networks import RRDBNet
from esrgan_train import loop
from esrgan_train.data.cache import open_pairs
from esrgan_train.divergence import DivergedError
from esrgan_train.ema import update_average
from esrgan_train.loop import train
from esrgan_train.recipe import load_recipe
from esrgan_train.run import set_up
from esrgan_train.schedule import learning_rate
from esrgan_train.validate import means, validate
from tiny import hidden, read_log, read_state


def one_process():
    return Fabric(accelerator="cpu", devices=1)


# Averages


def test_the_average_follows_the_closed_formula():
    """d_k = min(decay, (1 + k) / (10 + k)); w = w_0 d_0 d_1 ... + sum over k of w_k (1 - d_k) d_k+1 d_k+2 ..."""
    torch.manual_seed(0)
    networks = [nn.Linear(3, 2) for _ in range(31)]
    average = nn.Linear(3, 2)
    average.load_state_dict(networks[0].state_dict())
    decays = [min(0.6, (1 + step) / (10 + step)) for step in range(30)]
    for step, network in enumerate(networks[1:]):
        update_average(average, network, 0.6, step)
    expected = networks[0].weight * math.prod(decays)
    for step, network in enumerate(networks[1:]):
        expected = expected + network.weight * (1 - decays[step]) * math.prod(decays[step + 1 :])
    torch.testing.assert_close(average.weight, expected)
    assert decays[0] == 0.1, "the random beginning is soon forgotten"
    assert decays[-1] == 0.6


def test_a_run_averages_what_its_steps_gave(make_recipe, tmp_path):
    weights = []
    for steps in range(1, 5):
        train(make_recipe("psnr", f"steps={steps}", "ema=0.15"), tmp_path / str(steps))
        weights.append(read_state(tmp_path / str(steps))["generator"])
    start = set_up(make_recipe("psnr"), tmp_path, one_process()).generator.state_dict()
    decays = [0.1, 0.15, 0.15, 0.15]
    average = read_state(tmp_path / "4")["average"]
    for key, value in average.items():
        expected = start[key] * math.prod(decays)
        for step, state in enumerate(weights):
            expected = expected + state[key] * (1 - decays[step]) * math.prod(decays[step + 1 :])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)


def test_buffers_are_copied_into_the_average(make_recipe, tmp_path):
    train(make_recipe("residual", "ema=0.99"), tmp_path)
    state = read_state(tmp_path)
    buffers = [key for key in state["average"] if "running" in key or "tracked" in key]
    assert buffers
    for key, value in state["average"].items():
        assert torch.equal(value, state["generator"][key]) == (key in buffers)


@pytest.mark.parametrize(("ema", "kind"), [("0.9", "params_ema"), ("null", "params")])
def test_the_average_is_what_is_validated_and_exported(make_recipe, pictures, tmp_path, ema, kind):
    train(make_recipe("psnr", f"validation.folder={pictures}", "optimiser.lr=0.01", f"ema={ema}"), tmp_path)
    state = read_state(tmp_path)
    last = load_checkpoint(tmp_path / loop.LAST)
    assert last.kind == kind
    for key, value in last.network.state_dict().items():
        assert torch.equal(value, state["average"][key])
    scores, _ = validate(last.network, open_pairs(pictures, 4), ["psnr", "ssim"], 192)
    (line,) = read_log(tmp_path, "validation")
    assert {key: line[key] for key in ("psnr", "ssim")} == pytest.approx(means(scores), abs=1e-6)
    assert any((state["average"][key] - state["generator"][key]).abs().max() > 1e-3 for key in state["average"]) == (
        ema != "null"
    )


# Where a run starts


@pytest.fixture
def parents(tmp_path):
    """Two networks, averaged and last, in one file of BasicSR's form, and the first of them alone."""
    torch.manual_seed(5)
    averaged, last = (RRDBNet(channels=8, growth=4, blocks=1) for _ in range(2))
    torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, tmp_path / "both.pth")
    torch.save({"params": last.state_dict()}, tmp_path / "last.pth")
    save_checkpoint(averaged, tmp_path / "averaged.safetensors")
    return averaged, last


@pytest.mark.parametrize(("file", "which"), [("both.pth", 0), ("last.pth", 1), ("averaged.safetensors", 0)])
def test_a_run_starts_from_one_set_of_weights(make_recipe, tmp_path, parents, file, which):
    """The generator and its average: a file with both kinds must not give one to each."""
    run = set_up(make_recipe("psnr", f"start_from={tmp_path / file}"), tmp_path, one_process())
    for key, value in parents[which].state_dict().items():
        assert torch.equal(run.generator.state_dict()[key], value)
        assert torch.equal(run.average.state_dict()[key], value)
    assert all(parameter.requires_grad for parameter in run.generator.parameters())


def test_the_weights_name_their_parent(make_recipe, tmp_path, parents):
    train(make_recipe("psnr", f"start_from={tmp_path / 'both.pth'}", "steps=1"), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / loop.LAST).parent_sha256 == load_checkpoint(tmp_path / "both.pth").sha256


def test_a_parent_of_another_network(make_recipe, tmp_path):
    save_checkpoint(RRDBNet(channels=8, growth=4, blocks=2), tmp_path / "two.safetensors")
    with pytest.raises(OptionError, match=r"start_from .*two.safetensors: is .*'blocks': 2.* recipe's .*'blocks': 1"):
        train(make_recipe("psnr", f"start_from={tmp_path / 'two.safetensors'}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_seed_decides(make_recipe, tmp_path):
    weights = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(make_recipe("psnr", f"seed={seed}", "steps=2"), str(tmp_path / name))
        weights[name] = (tmp_path / name / loop.LAST).read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]


def test_the_effective_recipe_is_saved(make_recipe, tmp_path):
    recipe = make_recipe("gan", "steps=2", "data.patch=32", "clip_gradient=3")
    train(recipe, tmp_path)
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_the_learning_rate_follows_the_schedule(make_recipe, tmp_path):
    settings = ["schedule={schedule: multistep, at: [2, 4], factor: 0.1}", "discriminator.steps=1", "log_every=1"]
    recipe = make_recipe("gan", *settings)
    train(recipe, tmp_path)
    assert [line["lr"] for line in read_log(tmp_path)] == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)
    rate = read_state(tmp_path)["discriminator_optimiser"]["param_groups"][0]["lr"]
    assert rate == learning_rate(recipe.schedule, recipe.discriminator.optimiser.lr, 5, 6) == pytest.approx(1e-6)


# Losses that are not finite


def poison(monkeypatch, number, harm, before=True):
    """In step `number`, `harm` is done to the model, before the step or after it."""
    real = loop.train_step

    def poisoned(model, batches, step):
        if step + 1 == number and before:
            harm(model)
        terms = real(model, batches, step)
        if step + 1 == number and not before:
            harm(model)
        return terms

    monkeypatch.setattr(loop, "train_step", poisoned)


def spoil(value, network="generator"):
    def harm(model):
        with torch.no_grad():
            next(getattr(model, network).network.parameters())[0, 0, 0, 0] = value

    return harm


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_stops_the_run(make_recipe, tmp_path, monkeypatch, value):
    recipe = make_recipe("psnr", "save_every=1")
    with monkeypatch.context() as patch:
        poison(patch, 4, spoil(value))
        files = []
        real = loop.check_losses
        patch.setattr(loop, "check_losses", lambda run, terms: (files.append(saved(tmp_path)), real(run, terms)))
        with pytest.raises(DivergedError, match=rf"step 4: l1 is (nan|inf); .*start_from={tmp_path}/last.safetensors"):
            train(recipe, tmp_path)
    assert saved(tmp_path) == files[-1], "nothing was written after the step"
    assert read_state(tmp_path)["step"] == 3
    assert hidden(tmp_path) == []
    load_checkpoint(tmp_path / loop.LAST)
    train(recipe, tmp_path, resume=True)
    assert read_state(tmp_path)["step"] == 6


def saved(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*[tr]s") if path.exists()} | {
        path.name: path.read_bytes() for path in folder.glob(loop.STATE)
    }


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_that_are_not_finite_are_not_saved(make_recipe, tmp_path, monkeypatch, network):
    """A finite loss with a gradient that is not: its step ends with bad weights, and no loss says so yet."""
    poison(monkeypatch, 4, spoil(math.nan, network), before=False)
    with pytest.raises(DivergedError, match=rf"step 4: the {network}'s .*weight is not finite"):
        train(make_recipe("wgan", "save_every=2"), tmp_path)
    assert read_state(tmp_path)["step"] == 2


def test_a_rate_that_is_too_high(make_recipe, tmp_path):
    with pytest.raises(
        DivergedError, match=r"step [23]: .*nothing was saved before; begin again with a lower optimiser.lr"
    ):
        train(make_recipe("psnr", "optimiser.lr=1e30", "save_every=100"), tmp_path)
    assert not (tmp_path / loop.STATE).exists()


# What this machine cannot do


def test_not_enough_memory(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train_step", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(
        MachineError, match=r"cpu: not enough memory for batch 2 of 32x32 pixels; halve batch and double"
    ):
        train(make_recipe("psnr"), tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within torch
def test_no_working_compiler(make_recipe, tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise FileNotFoundError("no g++ on this machine")

    monkeypatch.setattr(loop, "train_step", lambda *_: torch.compile(torch.neg, backend=backend)(torch.ones(1)))
    with pytest.raises(
        MachineError, match=r"cannot be compiled here \(.*no g\+\+ on this machine\); set compile=false"
    ):
        train(make_recipe("psnr"), tmp_path)


def test_a_fault_of_ours_stays_one(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train_step", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train(make_recipe("psnr"), tmp_path)


# The log


def test_a_line_holds_the_means_of_its_steps(make_recipe, tmp_path):
    train(make_recipe("gan"), tmp_path / "each")
    for every in (1, 3):
        train(make_recipe("gan", f"log_every={every}"), tmp_path / str(every))
    single, threes = read_log(tmp_path / "1"), read_log(tmp_path / "3")
    assert [line["step"] for line in threes] == [3, 6]
    for line in threes:
        steps = [other for other in single if line["step"] - 3 < other["step"] <= line["step"]]
        for name in ("l1", "adversarial", "discriminator"):
            values = [step[name] for step in steps if name in step]
            assert line[name] == pytest.approx(fmean(values))
    assert "l1" not in single[0], "G moves in every second step alone"


def test_tensorboard_has_the_same_curves(make_recipe, pictures, tmp_path):
    train(make_recipe("psnr", f"validation.folder={pictures}", "validation.every=3"), tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for what, name in (("train", "l1"), ("validation", "psnr"), ("bicubic", "ssim")):
        curve = [(event.step, event.value) for event in events.Scalars(f"{what}/{name}")]
        assert curve == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in read_log(tmp_path, what)]


def test_the_best_weights_are_kept(make_recipe, pictures, tmp_path):
    """The rate is so high that the last weights are not the best ones."""
    settings = [f"validation.folder={pictures}", "validation.every=1", "validation.best=psnr", "optimiser.lr=0.03"]
    train(make_recipe("psnr", *settings, "ema=null", "steps=8"), tmp_path)
    scores = [line["psnr"] for line in read_log(tmp_path, "validation")]
    assert max(scores) > scores[-1] + 0.1
    best = load_checkpoint(tmp_path / loop.BEST).network
    assert means(validate(best, open_pairs(pictures, 4), ["psnr"], 192)[0])["psnr"] == pytest.approx(max(scores))
    assert read_state(tmp_path)["best"] == max(scores)


def test_a_lower_niqe_is_better(make_recipe, tmp_path):
    recipe = make_recipe("psnr", "validation={folder: 'builtin:photos', metrics: [niqe], best: niqe}")
    run = set_up(recipe, tmp_path, one_process())
    for score, best in ((5.0, 5.0), (6.0, 5.0), (4.0, 4.0)):
        loop.keep_best(run, {"niqe": score})
        assert run.best == best


def test_without_a_choice_there_are_no_best_weights(make_recipe, pictures, tmp_path):
    train(make_recipe("psnr", f"validation.folder={pictures}", "steps=2"), tmp_path)
    assert not (tmp_path / loop.BEST).exists()


@pytest.mark.parametrize("place", ["file/run", pytest.param("/proc/run", marks=pytest.mark.linux("needs /proc"))])
def test_a_folder_that_cannot_be_made(make_recipe, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(EsrganError, match=r"run: cannot be made: .*; name another with -o"):
        train(make_recipe("psnr"), tmp_path / place)


# Two synthetic truths


@pytest.mark.slow
def test_a_network_learns_one_crop_by_heart(make_recipe, pictures, tmp_path):
    """45 dB on the one crop that it sees: every part of a step does its work."""
    from PIL import Image

    (tmp_path / "one").mkdir()
    with Image.open(pictures / "dogs.png") as photo:
        photo.crop((16, 32, 48, 64)).save(tmp_path / "one" / "crop.png")
    recipe = make_recipe(
        "psnr",
        f"data.train=[{{folder: {tmp_path / 'one'}}}]",
        "data.flips=false",
        "data.rotations=false",
        "network={name: RRDBNet, channels: 32, growth: 16, blocks: 1, scale: 4}",
        "losses=[{loss: mse}]",
        "optimiser={lr: 2e-3, betas: [0.9, 0.99]}",
        "schedule={schedule: cosine, warmup: 20}",
        "steps=1500",
        "batch=1",
        "log_every=500",
        "save_every=5000",
        f"validation={{folder: {tmp_path / 'one'}, every: 500, metrics: [psnr]}}",
    )
    train(recipe, tmp_path / "run")
    scores = [line["psnr"] for line in read_log(tmp_path / "run", "validation")]
    assert scores[-1] > 45
    (bicubic,) = read_log(tmp_path / "run", "bicubic")
    assert bicubic["psnr"] < 30


def test_losses_fall(make_recipe, tmp_path):
    train(make_recipe("psnr", "steps=60", "optimiser.lr=3e-3"), tmp_path)
    losses = [line["l1"] for line in read_log(tmp_path)]
    assert fmean(losses[-10:]) < 0.5 * fmean(losses[:5])
    assert all(a != b for a, b in itertools.pairwise(losses))
