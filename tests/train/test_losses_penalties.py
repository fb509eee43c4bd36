"""Gradient penalties: critics whose gradient is known, finite differences, and what the penalties leave alone."""

import pytest

pytest.importorskip("torch", reason="losses need the 'train' extra")

import torch
from torch import nn
from torch.autograd import gradcheck

from esrgan_train.losses.r1 import r1
from esrgan_train.losses.wasserstein import gradient_penalty


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pictures(count=3):
    return torch.rand(2, count, 3, 4, 4, dtype=torch.float64)


def linear_critic(weight):
    return lambda image: (image * weight).flatten(1).sum(1)


def test_penalty_of_a_linear_critic_is_known():
    """dC/dx = w everywhere: GP = (|w| - 1)^2 with gradient 2 (|w| - 1) w / |w|, and R1 = |w|^2 / 2 with gradient w."""
    real, fake = pictures()
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    length = weight.detach().norm()
    penalty = gradient_penalty(linear_critic(weight), real, fake)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert penalty.item() == pytest.approx((length.item() - 1) ** 2)
    assert torch.allclose(gradient, 2 * (length - 1) * weight / length)
    penalty = r1(linear_critic(weight), real)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert penalty.item() == pytest.approx(length.item() ** 2 / 2)
    assert torch.allclose(gradient, weight)


def test_penalty_is_measured_between_real_and_fake_one_point_per_sample():
    """C = |x|^2 / 2 has dC/dx = x. With real = 3 e and fake = -e, |e| = 1, the point is (4u - 1) e."""
    unit = torch.full((3, 4, 4), 48**-0.5, dtype=torch.float64)
    real, fake = (factor * unit.expand(5, 3, 4, 4) for factor in (3, -1))
    penalty = gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, fake, torch.Generator().manual_seed(7))
    u = torch.rand(5, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    assert penalty.item() == pytest.approx(((4 * u - 1).abs() - 1).square().mean().item())


def test_r1_is_measured_at_real_pictures():
    real, _ = pictures()
    penalty = r1(lambda x: x.square().flatten(1).sum(1) / 2, real)
    assert penalty.item() == pytest.approx(real.square().sum().item() / 3 / 2)


def test_value_of_a_map_is_its_mean():
    real, fake = pictures()
    weight = torch.randn(3, 4, 4, dtype=torch.float64)

    def as_map(image):
        return linear_critic(weight)(image).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    assert r1(as_map, real).item() == pytest.approx(r1(linear_critic(weight), real).item())
    assert gradient_penalty(as_map, real, fake).item() == pytest.approx((weight.norm().item() - 1) ** 2)


def smooth_critic(weight):
    return lambda image: torch.tanh(nn.functional.conv2d(image, weight, padding=1)).flatten(1).sum(1)


def test_gradient_of_penalties_is_that_of_finite_differences():
    real, fake = pictures(2)
    weight = (0.3 * torch.randn(2, 3, 3, 3, dtype=torch.float64)).requires_grad_()

    def penalty(weight):
        return gradient_penalty(smooth_critic(weight), real, fake, torch.Generator().manual_seed(7))

    assert gradcheck(penalty, (weight,))
    assert gradcheck(lambda weight: r1(smooth_critic(weight), real), (weight,))


def test_each_penalty_shows_the_critic_one_batch_of_n_and_never_real_beside_fake():
    """Trap 5: a batch of real and fake pictures together would be normalised together."""
    real, fake = pictures()
    seen = []

    def critic(image):
        seen.append(image.detach())
        return image.square().flatten(1).sum(1)

    r1(critic, real)
    gradient_penalty(critic, torch.zeros_like(real), torch.ones_like(fake))
    assert torch.equal(seen[0], real)
    assert seen[1].shape == real.shape
    assert all(0 < sample.min() == sample.max() < 1 for sample in seen[1])
    assert len(seen) == 2


def test_no_gradient_reaches_the_generator():
    real, fake = (pictures.requires_grad_() for pictures in pictures())
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient_penalty(smooth_critic(weight), real, fake) + r1(smooth_critic(weight), real)).backward()
    assert real.grad is None
    assert fake.grad is None
    assert weight.grad.abs().max() > 0


def test_penalties_are_computed_in_fp32_under_autocast():
    """In bf16 they would be off in the third digit."""
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 2))
    real, _ = pictures().float()  # both penalties are measured there: between a picture and itself
    with torch.autocast("cpu", torch.bfloat16):
        found = r1(critic, real), gradient_penalty(critic, real, real)
    exact = r1(critic.double(), real.double()), gradient_penalty(critic, real.double(), real.double())
    assert {penalty.dtype for penalty in found} == {torch.float32}
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
