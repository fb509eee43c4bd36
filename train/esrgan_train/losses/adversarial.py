"""All GAN losses behind two functions, `discriminator_loss` and `generator_loss`, which a training step calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from esrgan_deploy.errors import OptionError
from esrgan_train.losses import least_squares, standard, wasserstein
from esrgan_train.losses.relativistic import MeanOver, relative

Kind = Literal["standard", "least-squares", "wasserstein"]
Detach = Literal["none", "opposite"]
Combination = Literal["sum", "mean"]
Term = Callable[[Tensor], Tensor]

REAL_TERMS: dict[Kind, Term] = {
    "standard": standard.real_term,
    "least-squares": least_squares.real_term,
    "wasserstein": wasserstein.real_term,
}
FAKE_TERMS: dict[Kind, Term] = {
    "standard": standard.fake_term,
    "least-squares": least_squares.fake_term,
    "wasserstein": wasserstein.fake_term,
}
RELATIVE_FAKE_TERMS: dict[Kind, Term] = {**FAKE_TERMS, "least-squares": least_squares.relative_fake_term}


@dataclass(frozen=True)
class AdversarialOptions:
    """Which GAN loss. The defaults are those of the papers.

    Raises:
        OptionError: a value that is not among those listed.
    """

    kind: Kind = "standard"
    relativistic: bool = False
    """Compare each logit with the average of the other side; True for ESRGAN."""
    mean_over: MeanOver = "all"
    """What that average is taken over if the discriminator returns a map; see `relativistic.relative`."""
    detach: Detach = "none"
    """Whether gradients of D's loss flow through the averages ("none", the paper), or the averages are constants
    ("opposite", BasicSR since 2020). It has no effect on G's loss, see `generator_loss`."""
    terms: Combination = "sum"
    """Whether the real and the fake term are added (the papers) or averaged (the official ESRGAN code, whose loss is
    therefore half the paper's at the same weight). A loss of one term is the same either way."""

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("mean_over", MeanOver), ("detach", Detach), ("terms", Combination)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise OptionError(
                    f"adversarial {name} {value!r} is unknown; choose one of {', '.join(get_args(known))}"
                )


def discriminator_loss(real: Tensor, fake: Tensor, options: AdversarialOptions) -> Tensor:
    """The loss that D minimises.

    Compute the two logits in two passes. Batch normalisation would normalise real and fake pictures of one batch
    together, and D would not work on either alone.

    Args:
        real: raw logits D(hr), (N, ...), any float type.
        fake: raw logits D(sr.detach()), (M, ...). Detach the pictures before the pass instead of the logits after it,
            or the graph through G is built for nothing.
        options: which loss.

    Returns:
        One fp32 value without a weight: the paper's lambda is the weight of G's loss only.
    """
    on_real = REAL_TERMS[options.kind]
    if not options.relativistic:
        return _combine(on_real(real), FAKE_TERMS[options.kind](fake), options.terms)
    others_of_real, others_of_fake = (fake, real) if options.detach == "none" else (fake.detach(), real.detach())
    return _combine(
        on_real(relative(real, others_of_real, options.mean_over)),
        RELATIVE_FAKE_TERMS[options.kind](relative(fake, others_of_fake, options.mean_over)),
        options.terms,
    )


def generator_loss(fake: Tensor, real: Tensor | None, options: AdversarialOptions) -> Tensor:
    """The loss that G minimises.

    The real logits are always detached: they do not depend on G, so G's gradient is the same. The fake logits never
    are: in the term of the real pictures, RaGAN trains G through the mean of the fake ones.

    Args:
        fake: raw logits D(sr), (N, ...), any float type, with the graph through D and G. Freeze D's weights, or ask
            `backward` for the gradients of G alone; otherwise D's weights collect gradients here.
        real: raw logits D(hr), (M, ...); may be None unless the loss is relativistic.
        options: which loss.

    Returns:
        One fp32 value, without the weight lambda.

    Raises:
        OptionError: a relativistic loss without `real`.
    """
    on_real = REAL_TERMS[options.kind]
    if not options.relativistic:
        return on_real(fake)
    if real is None:
        raise OptionError("a relativistic generator loss needs the discriminator's logits of real pictures; pass them")
    real = real.detach()
    return _combine(
        RELATIVE_FAKE_TERMS[options.kind](relative(real, fake, options.mean_over)),
        on_real(relative(fake, real, options.mean_over)),
        options.terms,
    )


def _combine(a: Tensor, b: Tensor, terms: Combination) -> Tensor:
    return a + b if terms == "sum" else (a + b) / 2
