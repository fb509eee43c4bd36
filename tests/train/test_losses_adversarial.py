"""GAN losses against the papers' equations in plain Python, and their gradients by hand and by finite differences."""

import itertools
from math import exp, log
from statistics import mean

import pytest

pytest.importorskip("torch", reason="losses need the 'train' extra")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from esrgan_deploy.errors import OptionError
from esrgan_train.losses.adversarial import AdversarialOptions, discriminator_loss, generator_loss

KINDS = ("standard", "least-squares", "wasserstein")
REAL = [2.0, -0.5, 1.25]
FAKE = [-1.0, 0.75, 0.5]
ALL_OPTIONS = [
    AdversarialOptions(*choice)
    for choice in itertools.product(KINDS, (False, True), ("all", "position"), ("none", "opposite"), ("sum", "mean"))
]
RAGAN = AdversarialOptions("standard", relativistic=True)


def sigma(x):
    return 1 / (1 + exp(-x))


# What each paper writes for a logit that is to look real, and for one that is to look fake.
ON_REAL = {"standard": lambda c: -log(sigma(c)), "least-squares": lambda c: (c - 1) ** 2, "wasserstein": lambda c: -c}
ON_FAKE = {"standard": lambda c: -log(1 - sigma(c)), "least-squares": lambda c: c**2, "wasserstein": lambda c: c}
ON_RELATIVE_FAKE = {**ON_FAKE, "least-squares": lambda c: (c + 1) ** 2}


def logits(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).view(-1, 1).requires_grad_()


def maps():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=generator)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
def test_plain_losses_are_the_papers(kind):
    options = AdversarialOptions(kind)
    expected_d = mean(map(ON_REAL[kind], REAL)) + mean(map(ON_FAKE[kind], FAKE))
    assert discriminator_loss(logits(*REAL), logits(*FAKE), options).item() == pytest.approx(expected_d)
    assert generator_loss(logits(*FAKE), None, options).item() == pytest.approx(mean(map(ON_REAL[kind], FAKE)))


@pytest.mark.parametrize("kind", KINDS)
def test_relativistic_losses_are_the_papers(kind):
    options = AdversarialOptions(kind, relativistic=True)
    real = [c - mean(FAKE) for c in REAL]
    fake = [c - mean(REAL) for c in FAKE]
    expected_d = mean(map(ON_REAL[kind], real)) + mean(map(ON_RELATIVE_FAKE[kind], fake))
    expected_g = mean(map(ON_REAL[kind], fake)) + mean(map(ON_RELATIVE_FAKE[kind], real))
    assert discriminator_loss(logits(*REAL), logits(*FAKE), options).item() == pytest.approx(expected_d)
    assert generator_loss(logits(*FAKE), logits(*REAL), options).item() == pytest.approx(expected_g)


@pytest.mark.parametrize(
    ("options", "real", "fake", "d", "g"),
    [
        (AdversarialOptions("standard"), 0, 0, 2 * log(2), log(2)),
        (RAGAN, 5, 5, 2 * log(2), 2 * log(2)),
        (AdversarialOptions("standard", True, terms="mean"), 5, 5, log(2), log(2)),
        (AdversarialOptions("least-squares"), 1, 0, 0, 1),
        (AdversarialOptions("least-squares", True), 4, 3, 0, 8),
        (AdversarialOptions("wasserstein"), 4, 3, -1, -3),
        (AdversarialOptions("wasserstein", True), 4, 3, -2, 2),
    ],
    ids=str,
)
def test_values_known_by_heart(options, real, fake, d, g):
    assert discriminator_loss(logits(real), logits(fake), options).item() == pytest.approx(d)
    assert generator_loss(logits(fake), logits(real), options).item() == pytest.approx(g)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_generators_gradient_is_that_of_finite_differences(options):
    real, fake = maps()
    assert gradcheck(lambda fake: generator_loss(fake, real.detach(), options), (fake,))


@pytest.mark.parametrize("options", [o for o in ALL_OPTIONS if o.detach == "none" or not o.relativistic], ids=str)
def test_discriminators_gradient_is_that_of_finite_differences(options):
    assert gradcheck(lambda real, fake: discriminator_loss(real, fake, options), maps())


def test_ragan_generator_learns_through_both_terms():
    """Trap 5: dropping the real term is the classic bug. By hand, with r = REAL - mean(FAKE), f = FAKE - mean(REAL):

    dL/dfake_j = -sigma(-f_j) / N  through the fake term, and  -mean_i sigma(r_i) / N  through the real term's mean.
    """
    fake = logits(*FAKE)
    generator_loss(fake, logits(*REAL), RAGAN).backward()
    through_fake = [-sigma(mean(REAL) - c) / 3 for c in FAKE]
    through_real = -mean(sigma(c - mean(FAKE)) for c in REAL) / 3
    assert fake.grad.flatten().tolist() == pytest.approx([own + through_real for own in through_fake])


@pytest.mark.parametrize("detach", ["none", "opposite"])
def test_detach_takes_the_gradient_through_the_means_from_d(detach):
    """Trap 5: the paper's D learns through the means of the other side too, today's official code does not."""
    real, fake = logits(*REAL), logits(*FAKE)
    discriminator_loss(real, fake, AdversarialOptions("standard", True, detach=detach)).backward()
    own_real = [-sigma(mean(FAKE) - c) / 3 for c in REAL]
    own_fake = [sigma(c - mean(REAL)) / 3 for c in FAKE]
    through_means = mean(-sigma(c - mean(REAL)) for c in FAKE) / 3, mean(sigma(mean(FAKE) - c) for c in REAL) / 3
    to_real, to_fake = through_means if detach == "none" else (0, 0)
    assert real.grad.flatten().tolist() == pytest.approx([own + to_real for own in own_real])
    assert fake.grad.flatten().tolist() == pytest.approx([own + to_fake for own in own_fake])


@pytest.mark.parametrize("kind", KINDS)
def test_detach_changes_no_value_and_nothing_for_g(kind):
    none, opposite = (AdversarialOptions(kind, True, detach=detach) for detach in ("none", "opposite"))
    real, fake = logits(*REAL), logits(*FAKE)
    assert discriminator_loss(real, fake, none) == discriminator_loss(real, fake, opposite)
    (expected,) = torch.autograd.grad(generator_loss(fake, real, none), fake)
    (found,) = torch.autograd.grad(generator_loss(fake, real, opposite), fake)
    assert torch.equal(expected, found)


def test_detach_is_nothing_to_a_loss_that_is_not_relativistic():
    for detach in ("none", "opposite"):
        real, fake = logits(*REAL), logits(*FAKE)
        discriminator_loss(real, fake, AdversarialOptions(detach=detach)).backward()
        assert real.grad.flatten().tolist() == pytest.approx([-sigma(-c) / 3 for c in REAL])
        assert fake.grad.flatten().tolist() == pytest.approx([sigma(c) / 3 for c in FAKE])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relativistic", [False, True])
def test_real_logits_get_no_gradient_in_the_generators_step(kind, relativistic):
    """Trap 5: D(real) is detached there."""
    real, fake = logits(*REAL), logits(*FAKE)
    generator_loss(fake, real, AdversarialOptions(kind, relativistic)).backward()
    assert real.grad is None
    assert fake.grad.abs().min() > 0


def test_mean_is_over_all_logits_or_per_position():
    """Trap 6: BasicSR and KAIR differ for discriminators that return a map."""
    real = torch.tensor([[1.0, 5.0], [3.0, 7.0]]).view(2, 1, 1, 2)  # per position 2 and 6, over all 4
    fake = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    values = {}
    for mean_over, means in (("all", (4, 4)), ("position", (2, 6))):
        options = AdversarialOptions("least-squares", True, mean_over)
        fake_term = mean((c - m + 1) ** 2 for c, m in zip((0, 1), means, strict=True))
        fake_means = (0.5, 0.5) if mean_over == "all" else (0, 1)
        real_term = mean((c - m - 1) ** 2 for row in ((1, 5), (3, 7)) for c, m in zip(row, fake_means, strict=True))
        values[mean_over] = discriminator_loss(real, fake, options).item()
        assert values[mean_over] == pytest.approx(real_term + fake_term)
    assert values["all"] != values["position"]


@pytest.mark.parametrize("relativistic", [False, True])
def test_mean_of_terms_is_half_their_sum_for_the_discriminator(relativistic):
    """Trap 5: the official code halves, so that its lambda of 5e-3 is half the paper's."""
    real, fake = logits(*REAL), logits(*FAKE)
    total, half = (AdversarialOptions("standard", relativistic, terms=terms) for terms in ("sum", "mean"))
    assert discriminator_loss(real, fake, half).item() == pytest.approx(
        discriminator_loss(real, fake, total).item() / 2
    )
    factor = 2 if relativistic else 1  # the plain loss of G has one term
    assert generator_loss(fake, real, half).item() == pytest.approx(generator_loss(fake, real, total).item() / factor)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_sides_are_never_concatenated_or_paired(options):
    """Trap 5: real and fake batches are passes of their own, and may differ in number."""
    real, fake = logits(*REAL), logits(*FAKE, 4.0, -3.0)
    order = torch.tensor([4, 2, 0, 1, 3])
    loss = discriminator_loss(real, fake, options).item()
    assert loss == pytest.approx(discriminator_loss(real, fake[order], options).item())
    assert generator_loss(fake, real, options).item() == pytest.approx(
        generator_loss(fake[order], real[[1, 2, 0]], options).item()
    )


values = st.lists(st.floats(-20, 20), min_size=1, max_size=5)


@given(values, values, st.floats(-50, 50), st.sampled_from([o for o in ALL_OPTIONS if o.relativistic]))
def test_relativistic_losses_know_differences_only(real, fake, shift, options):
    """The same amount on every logit changes nothing, and G's loss is D's with the sides exchanged."""
    real, fake = logits(*real), logits(*fake)
    loss = discriminator_loss(real, fake, options).item()
    assert discriminator_loss(real + shift, fake + shift, options).item() == pytest.approx(loss, abs=1e-9)
    assert generator_loss(real, fake, options).item() == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("relativistic", [False, True])
def test_logits_of_any_size_give_finite_losses_and_gradients(relativistic):
    """A discriminator that is sure of itself is wrong by 1e4 here: log(sigmoid(-1e4)) would be -inf in fp32."""
    real, fake = logits(-1e4, dtype=torch.float32), logits(1e4, dtype=torch.float32)
    options = AdversarialOptions("standard", relativistic)
    loss = discriminator_loss(real, fake, options)
    loss.backward()
    factor = 2 if relativistic else 1
    assert loss.item() == pytest.approx(2 * factor * 1e4)
    assert (real.grad.item(), fake.grad.item()) == (-factor, factor)


@pytest.mark.parametrize("options", [o for o in ALL_OPTIONS if o.terms == "sum" and o.detach == "none"], ids=str)
def test_bf16_logits_are_averaged_in_fp32_under_autocast(options):
    real, fake = (torch.tensor(values).bfloat16().view(-1, 1).requires_grad_() for values in (REAL, FAKE))
    with torch.autocast("cpu", torch.bfloat16):
        d, g = discriminator_loss(real, fake, options), generator_loss(fake, real, options)
    assert d.dtype == g.dtype == torch.float32
    assert d.item() == pytest.approx(discriminator_loss(real.double(), fake.double(), options).item(), rel=1e-6)
    assert g.item() == pytest.approx(generator_loss(fake.double(), real.double(), options).item(), rel=1e-6)


@pytest.mark.parametrize("wrong", [{"kind": "hinge"}, {"mean_over": "batch"}, {"detach": "both"}, {"terms": "half"}])
def test_unknown_options_are_refused_with_the_known_ones(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(OptionError, match=rf"{name} '{value}' is unknown; choose one of \w+"):
        AdversarialOptions(**wrong)


def test_relativistic_generator_needs_real_logits():
    with pytest.raises(OptionError, match="real pictures"):
        generator_loss(logits(*FAKE), None, RAGAN)
