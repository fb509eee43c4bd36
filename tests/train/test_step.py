"""One training step, held against the same step written out in plain PyTorch, in the order of the official code."""

import copy
import functools
import itertools

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from torch.nn import functional as F

from esrgan_export.networks import RRDBNet
from esrgan_train import discriminators
from esrgan_train.data.loader import Batch
from esrgan_train.losses.adversarial import AdversarialOptions, discriminator_loss, generator_loss
from esrgan_train.recipe import AdversarialLoss, parse_recipe
from esrgan_train.run import build_model
from esrgan_train.step import SRModel, TrainedNetwork, train_step
from tiny import BASE, RECIPES

OFFICIAL = {"relativistic": True, "detach": "opposite", "terms": "mean"}
PAPER = {"relativistic": True}


class Recorder(torch.optim.SGD):
    """SGD that keeps the gradients of every step."""

    def __init__(self, network, lr=0.0):
        super().__init__(network.parameters(), lr)
        self.gradients = []

    def step(self):
        self.gradients.append([parameter.grad.clone() for parameter in self.param_groups[0]["params"]])
        super().step()


@pytest.fixture
def batch():
    """A batch of noise: uint8 (4, 3, 8, 8) and (4, 3, 32, 32), which is the target too."""
    random = torch.Generator().manual_seed(0)
    lr, hr = (torch.randint(256, (4, 3, size, size), generator=random, dtype=torch.uint8) for size in (8, 32))
    return Batch(lr, hr, hr)


@pytest.fixture
def vgg_file(tmp_path):
    """The first two layers of a VGG16, random."""
    random = torch.Generator().manual_seed(1)
    shapes = {"features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3)}
    state = {f"{name}.weight": torch.randn(shape, generator=random) * 0.05 for name, shape in shapes.items()}
    torch.save(state | {f"{name}.bias": torch.zeros(64) for name in shapes}, tmp_path / "vgg.pth")
    return tmp_path / "vgg.pth"


def smooth_discriminator():
    """Without any normalisation, so that a sample's logit does not depend on its batch."""
    torch.manual_seed(2)
    layers = [nn.Conv2d(3, 8, 4, 4), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 4, 4), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 2)]
    return nn.Sequential(*layers)


def model_of(losses, adversary=None, options=None, make=Recorder, **more):
    """A model with a fixed small generator and `adversary`; its optimisers record."""
    content = BASE | {"losses": losses, "data": {"train": [{"folder": "."}], "patch": 32}, "channels_last": False}
    if adversary is not None:
        content["discriminator"] = {"network": {"name": "UNetDiscriminator"}} | more.pop("discriminator", {})
    torch.manual_seed(3)
    generator = RRDBNet(channels=8, growth=4, blocks=1)
    model = SRModel(
        parse_recipe(content | more, "test"),
        Fabric(accelerator="cpu", devices=1),
        TrainedNetwork(generator, make(generator), generator),
        vgg=[None] * len(losses),
        adversarial=AdversarialOptions(**(options or {})),
    )
    if adversary is not None:
        adversary = copy.deepcopy(adversary)
        model.discriminator = TrainedNetwork(adversary, make(adversary), adversary)
    return model


def unit(pictures):
    return pictures.float() / 255


def gan_loss(logits, target_is_real):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(target_is_real)))


class OfficialModel:
    """BasicSR's order: freeze D, G's step with two passes of D, unfreeze, D's step with three."""

    def __init__(self, recipe, generator, discriminator, vgg):
        self.recipe, self.generator, self.discriminator, self.vgg = recipe, generator, discriminator, vgg
        self.optimiser_g = torch.optim.Adam(generator.parameters(), **recipe.optimiser.model_dump())
        self.optimiser_d = torch.optim.Adam(discriminator.parameters(), **recipe.discriminator.optimiser.model_dump())

    def step(self, lr, hr):
        weight = {loss.loss: loss.weight for loss in self.recipe.losses}
        self.discriminator.requires_grad_(False)
        self.optimiser_g.zero_grad()
        sr = self.generator(lr)
        total = weight["l1"] * F.l1_loss(sr, hr)
        total = total + weight["perceptual"] * F.l1_loss(self.features(sr), self.features(hr).detach())
        real, fake = self.discriminator(hr).detach(), self.discriminator(sr)
        adversarial = gan_loss(real - fake.mean(), False) + gan_loss(fake - real.mean(), True)
        terms = 1 if self.recipe.adversarial.terms == "sum" else 0.5
        (total + weight["adversarial"] * terms * adversarial).backward()
        self.optimiser_g.step()

        self.discriminator.requires_grad_(True)
        self.optimiser_d.zero_grad()
        if self.recipe.adversarial.detach == "opposite":
            self.discriminate_twice(sr, hr, terms)
        else:
            real, fake = self.discriminator(hr), self.discriminator(sr.detach())
            (terms * (gan_loss(real - fake.mean(), True) + gan_loss(fake - real.mean(), False))).backward()
        self.optimiser_d.step()

    def discriminate_twice(self, sr, hr, terms):
        fake = self.discriminator(sr).detach()
        real = self.discriminator(hr)
        (terms * gan_loss(real - fake.mean(), True)).backward()
        fake = self.discriminator(sr.detach())
        (terms * gan_loss(fake - real.mean().detach(), False)).backward()

    def features(self, images):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        x = F.conv2d((images - mean) / std, self.vgg["features.0.weight"], self.vgg["features.0.bias"], padding=1)
        return F.conv2d(x.relu(), self.vgg["features.2.weight"], self.vgg["features.2.bias"], padding=1)


@pytest.mark.parametrize("options", [OFFICIAL, PAPER], ids=["official", "paper"])
def test_a_gan_step_is_the_official_one(make_recipe, batch, vgg_file, options):
    """Two passes of D instead of five, no freezing, channels_last, the fused optimiser: the same weights."""
    # Adam divides by the gradient's size, and where that is near zero, by rounding; a larger eps takes care of it.
    adam = "={lr: 1e-3, betas: [0.9, 0.99], eps: 1e-3}"
    recipe = make_recipe("gan", "discriminator.steps=1", f"optimiser{adam}", f"discriminator.optimiser{adam}")
    perceptual = {"loss": "perceptual", "network": "vgg16", "layers": {"conv1_2": 1}, "weights": str(vgg_file)}
    losses = [{"loss": "l1", "weight": 0.01}, perceptual, {"loss": "adversarial", "weight": 0.1, **options}]
    recipe = parse_recipe(recipe.model_dump(mode="json") | {"losses": losses}, "test")
    model, generator, _ = build_model(recipe, Fabric(accelerator="cpu", devices=1))
    nets = [
        copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        for network in (generator, model.discriminator.network)
    ]
    reference = OfficialModel(recipe, *nets, torch.load(vgg_file, weights_only=True))
    start = copy.deepcopy(nets)
    for step in range(3):
        train_step(model, iter([batch]), step)
        reference.step(unit(batch.lr), unit(batch.hr))
    for ours, theirs, before in zip((generator, model.discriminator.network), nets, start, strict=True):
        ours, theirs, before = (torch.cat([p.reshape(-1) for p in net.parameters()]) for net in (ours, theirs, before))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert (ours - theirs).norm() < 1e-3 * (theirs - before).norm()


@pytest.mark.parametrize("options", [{}, OFFICIAL, PAPER, {"kind": "wasserstein"}], ids=str)
def test_each_gets_the_gradient_of_its_own_loss(batch, options):
    """None of D's comes from G's loss, none of G's from D's, and D's reaches G through the pictures."""
    losses = [{"loss": "adversarial", "weight": 0.7, **options}]
    model = model_of(losses, smooth_discriminator(), options)
    generator, adversary = (copy.deepcopy(p.network) for p in (model.generator, model.discriminator))
    train_step(model, iter([batch]), 0)
    lr, hr = unit(batch.lr), unit(batch.hr)
    sr = generator(lr)
    of_g = 0.7 * generator_loss(adversary(sr), adversary(hr), model.adversarial)
    expected = torch.autograd.grad(of_g, list(generator.parameters()))
    of_d = discriminator_loss(adversary(hr), adversary(sr.detach()), model.adversarial)
    expected_d = torch.autograd.grad(of_d, list(adversary.parameters()))
    for network, gradients in ((model.generator, expected), (model.discriminator, expected_d)):
        (recorded,) = network.optimiser.gradients
        for got, want in zip(recorded, gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
        assert max(gradient.abs().max() for gradient in recorded) > 1e-6


def test_the_discriminator_sees_the_fake_from_before_the_generators_step(batch):
    """With a huge step of G in between, D's gradient would be another one."""
    losses = [{"loss": "adversarial", "weight": 1.0}]
    still = model_of(losses, smooth_discriminator())
    moving = model_of(losses, smooth_discriminator(), make=lambda network: Recorder(network, lr=100.0))
    for model in (still, moving):
        train_step(model, iter([batch]), 0)
    for one, other in zip(*(model.discriminator.optimiser.gradients[0] for model in (still, moving)), strict=True):
        assert torch.equal(one, other)


def test_the_losses_compare_with_the_target_and_the_discriminator_sees_hr(batch):
    """Real-ESRGAN sharpens what L1 compares with; a discriminator that saw that as real would ask for halos."""
    losses = [{"loss": "l1"}, {"loss": "adversarial"}]
    sharp = batch._replace(target=255 - batch.hr)
    of_hr, of_target = (model_of(losses, smooth_discriminator()) for _ in range(2))
    plain, terms = (train_step(m, iter([b]), 0) for m, b in ((of_hr, batch), (of_target, sharp)))
    sr = model_of(losses, smooth_discriminator()).generator.network(unit(batch.lr))
    assert terms["l1"] == pytest.approx(F.l1_loss(sr, unit(sharp.target)).item(), rel=1e-4)
    assert terms["l1"] != pytest.approx(plain["l1"], rel=1e-3)
    assert terms["discriminator"] == plain["discriminator"]
    assert terms["adversarial"] == plain["adversarial"]
    for one, other in zip(*(m.discriminator.optimiser.gradients[0] for m in (of_hr, of_target)), strict=True):
        assert torch.equal(one, other)


def test_penalties_are_weighted_and_only_the_discriminators(batch):
    plain = model_of([{"loss": "adversarial", "kind": "wasserstein"}], smooth_discriminator(), {"kind": "wasserstein"})
    both = model_of(
        [{"loss": "adversarial", "kind": "wasserstein"}],
        smooth_discriminator(),
        {"kind": "wasserstein"},
        discriminator={"gradient_penalty": 10.0, "r1": 3.0},
    )
    without, terms = (train_step(model, iter([batch]), 0) for model in (plain, both))
    assert set(terms) - set(without) == {"gradient-penalty", "r1"}
    hr = unit(batch.hr).requires_grad_()
    (gradient,) = torch.autograd.grad(smooth_discriminator()(hr).sum(), hr)
    assert terms["r1"] == pytest.approx(3.0 / 2 * float(gradient.square().sum((1, 2, 3)).mean()), rel=1e-4)
    assert terms["discriminator"] == pytest.approx(without["discriminator"])
    for a, b in zip(*(model.generator.optimiser.gradients[0] for model in (plain, both)), strict=True):
        assert torch.equal(a, b)
    of_d = zip(*(model.discriminator.optimiser.gradients[0] for model in (plain, both)), strict=True)
    unchanged = [torch.equal(a, b) for a, b in of_d]
    assert unchanged == [False, True] * 3, "the slope of a piecewise linear network does not depend on its biases"


@pytest.mark.parametrize("kind", ["psnr", "gan"])
def test_accumulation_is_a_larger_batch(batch, kind):
    """k passes of b samples equal one of k * b, for G and for D, and so do the losses that are logged."""
    losses = [{"loss": "l1"}] + ([{"loss": "adversarial"}] if kind == "gan" else [])
    adversary = smooth_discriminator() if kind == "gan" else None
    whole, parts = (
        model_of(losses, adversary, make=lambda network: Recorder(network, lr=0.1), accumulate=k) for k in (1, 4)
    )
    start = copy.deepcopy(whole.generator.network.state_dict())
    quarters = [Batch(*(pictures[i : i + 1] for pictures in batch)) for i in range(4)]
    for step in range(5):
        together = train_step(whole, iter([batch]), step)
        apart = train_step(parts, iter(quarters), step)
        assert apart == pytest.approx(together, rel=1e-4)
    networks = ["generator", "discriminator"] if kind == "gan" else ["generator"]
    for network in networks:
        pairs = zip(*(getattr(model, network).network.parameters() for model in (whole, parts)), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    moved = [(value - start[key]).abs().max() for key, value in whole.generator.network.state_dict().items()]
    assert max(moved) > 1e-2


def test_a_step_takes_as_many_batches_as_it_accumulates(batch):
    batches = iter([batch] * 10)
    train_step(model_of([{"loss": "l1"}], accumulate=3), batches, 0)
    assert len(list(batches)) == 7


def test_the_gradient_is_clipped_to_its_norm(batch):
    free = model_of([{"loss": "l1"}])
    train_step(free, iter([batch]), 0)
    norm = torch.cat([gradient.flatten() for gradient in free.generator.optimiser.gradients[0]]).norm()
    for limit, expected in ((float(norm) / 10, float(norm) / 10), (float(norm) * 10, float(norm))):
        model = model_of([{"loss": "l1"}], clip_gradient=limit)
        terms = train_step(model, iter([batch]), 0)
        (gradients,) = model.generator.optimiser.gradients
        clipped = torch.cat([gradient.flatten() for gradient in gradients])
        assert float(clipped.norm()) == pytest.approx(expected, rel=1e-4)
        assert terms["gradient-norm"] == pytest.approx(float(norm)), "what is logged is the norm before"
        for got, was in zip(gradients, free.generator.optimiser.gradients[0], strict=True):
            torch.testing.assert_close(got, was * expected / norm, rtol=1e-4, atol=1e-8)


def test_the_generator_moves_in_every_nth_step(batch):
    model = model_of([{"loss": "l1"}, {"loss": "adversarial"}], smooth_discriminator(), discriminator={"steps": 3})
    names = [set(train_step(model, itertools.repeat(batch), step)) for step in range(7)]
    assert names == [{"discriminator"}, {"discriminator"}, {"discriminator", "l1", "adversarial"}] * 2 + [
        {"discriminator"}
    ]
    assert len(model.generator.optimiser.gradients) == 2
    assert len(model.discriminator.optimiser.gradients) == 7


def test_two_losses_of_one_kind_both_count(batch):
    once = model_of([{"loss": "l1", "weight": 1.0}])
    twice = model_of([{"loss": "l1", "weight": 0.25}, {"loss": "l1", "weight": 0.75}])
    one, two = (train_step(model, iter([batch]), 0) for model in (once, twice))
    assert two == pytest.approx({"l1-1": one["l1"] / 4, "l1-2": one["l1"] * 3 / 4})
    for a, b in zip(*(model.generator.optimiser.gradients[0] for model in (once, twice)), strict=True):
        torch.testing.assert_close(a, b)


def half_precision_model(make_recipe, precision, *settings):
    """Fabric would not let a CPU compute in fp16, but for its scale a CPU is as good as a GPU."""
    recipe = make_recipe("standard-gan", "ema=null", *settings)
    plugins = [MixedPrecision(precision, "cpu")] if precision != "32-true" else []
    model, _, _ = build_model(recipe, Fabric(accelerator="cpu", devices=1, plugins=plugins))
    for network in (model.generator, model.discriminator):
        network.optimiser = Recorder(network.network)
    return model


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_gives_the_same_gradients(make_recipe, batch, precision):
    """fp16's loss scale is taken out again, before the gradient is clipped and before the optimiser sees it."""
    limit = "clip_gradient=0.01"
    full, half = (half_precision_model(make_recipe, p, limit) for p in ("32-true", precision))
    expected, terms = (train_step(model, iter([batch]), 0) for model in (full, half))
    assert terms == pytest.approx(expected, rel=0.05)
    for network in ("generator", "discriminator"):
        wanted, got = (
            torch.cat([g.flatten() for g in getattr(model, network).optimiser.gradients[0]]) for model in (full, half)
        )
        assert F.cosine_similarity(wanted, got, 0) > 0.98
        assert float(got.norm() / wanted.norm()) == pytest.approx(1, abs=0.05)


def test_an_overflow_of_fp16_skips_the_step_and_halves_the_scale_once(make_recipe, batch):
    model = half_precision_model(make_recipe, "16-mixed")
    scaler = model.fabric.strategy.precision.scaler
    scaler.scale(torch.ones(1))
    scaler.update(2.0**40)
    before = copy.deepcopy(model.generator.network.state_dict())
    model.generator.optimiser.param_groups[0]["lr"] = 1.0
    train_step(model, iter([batch]), 0)
    assert model.generator.optimiser.gradients == []
    assert scaler.get_scale() == 2.0**39, "one step of training, one change of the scale"
    assert all(torch.equal(value, before[key]) for key, value in model.generator.network.state_dict().items())


@pytest.mark.parametrize("kind", ["psnr", "relativistic-gan"])
def test_a_compiled_generator_takes_the_same_step(make_recipe, batch, monkeypatch, kind):
    """Its graph may go backward only once: a compiled graph gives its memory away then.

    Everything is compiled but for the last part, machine code, which takes minutes where nothing is cached.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    eager, compiled = (
        build_model(make_recipe(kind, f"compile={value}"), Fabric(accelerator="cpu", devices=1))[0]
        for value in ("false", "true")
    )
    assert compiled.generator.forward is not compiled.generator.network
    for step in range(3):
        expected, terms = (train_step(model, iter([batch]), step) for model in (eager, compiled))
        assert terms == pytest.approx(expected, rel=1e-4)


def test_every_kind_of_recipe_names_its_losses(make_recipe, batch):
    assert set(RECIPES) == {"psnr", "residual", "gan", "wgan", "standard-gan", "relativistic-gan"}
    for kind, names in {
        "residual": {"mse", "total-variation", "gradient-norm"},
        "wgan": {"l1", "adversarial", "discriminator", "gradient-penalty"},
    }.items():
        model, _, _ = build_model(make_recipe(kind), Fabric(accelerator="cpu", devices=1))
        assert set(train_step(model, itertools.repeat(batch), 0)) == names
        assert isinstance(model.recipe.adversarial, AdversarialLoss | None)
        if model.discriminator is not None:
            assert isinstance(model.discriminator.network, discriminators.Discriminator)
