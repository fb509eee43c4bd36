"""A training step of this project beside the same step as BasicSR takes it, on the same networks and batch.

BasicSR's: eager, fp32, NCHW, Adam and the moving average parameter by parameter, and for a GAN the discriminator is
frozen and thawed and runs five times, two of them for the generator's step. Ours: as the recipe says, and with the two
options that it has for speed. That both minimise the same losses is checked first.

compact/psnr is measured as it is, paper/rrdb-psnr and paper/esrgan with fewer blocks and a smaller batch. VGG's weights
are random; they cost as much.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from esrgan_train.data.loader import Batch, batches
from esrgan_train.ema import update_average
from esrgan_train.losses.vgg_layers import layer_names
from esrgan_train.recipe import AdversarialLoss, PerceptualLoss, PixelLoss, Recipe, load_recipe
from esrgan_train.run import build_model, open_data
from esrgan_train.run_log import TimedBatches
from esrgan_train.step import SRModel, train_step
from side_by_side import interleaved, ratio, save

TARGET = 1.5
DATA_TARGET = 0.05
DECAY = 0.999
PLAIN = "BasicSR's step"
VARIANTS: dict[str, dict[str, object]] = {
    "ours": {"compile": "false"},
    "ours, compiled": {"compile": "true"},
    "ours, compiled, bf16": {"compile": "true", "precision": "bf16-mixed"},
}
"""Name -> settings of the recipe."""

Step = Callable[[], object]


def main() -> None:
    """Measure, print a table, write results/training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="timed steps of each contender (default: 7)")
    add("--blocks", type=int, default=4, help="RRDBs; the papers have 23 (default: 4)")
    add("--patch", type=int, default=96, help="HR pixels, a multiple of 32, at most 96 (default: 96)")
    add("--batch", type=int, default=2, help="samples (default: 2)")
    args = parser.parse_args()
    sizes = {"network.blocks": args.blocks, "data.patch": args.patch, "batch": args.batch}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        vgg = write_random_vgg(Path(folder) / "vgg19.pth")
        data = {"data.train": "[{folder: 'builtin:photos'}]", "data.cache": folder, "validation": "{}", "ema": DECAY}
        gan = {"losses.0.weights": vgg, "discriminator.network.size": args.patch, "start_from": "null"}
        for name, more in (("compact/psnr", {}), ("paper/rrdb-psnr", sizes), ("paper/esrgan", sizes | gan)):
            results[name] = measure(name, data | more, args.rounds)
    save("training", {"sizes": sizes, "rounds": args.rounds, "target": TARGET, "results": results})


def measure(name: str, settings: Mapping[str, object], rounds: int) -> dict[str, Any]:
    """Time one recipe in all ways."""
    recipes = {variant: with_settings(name, {**settings, **more}) for variant, more in VARIANTS.items()}
    batch = noise(recipes["ours"])
    steps: dict[str, Step] = {PLAIN: PlainStep(recipes["ours"], batch)}
    steps |= {variant: our_step(recipe, batch) for variant, recipe in recipes.items()}
    check_same(steps[PLAIN], steps["ours"])
    seconds = interleaved(steps, rounds)
    fastest = min(recipes, key=lambda variant: median(seconds[variant]))
    share = data_share(recipes[fastest], rounds)
    return report(name, seconds, share)


def with_settings(name: str, settings: Mapping[str, object]) -> Recipe:
    """A recipe of the package with changes."""
    return load_recipe(name, [f"{key}={value}" for key, value in settings.items()])


def noise(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """A batch of random pictures, uint8."""
    random = torch.Generator().manual_seed(0)
    patch = recipe.data.patch
    lr, hr = (
        torch.randint(256, (recipe.batch, 3, size, size), dtype=torch.uint8, generator=random)
        for size in (patch // 4, patch)
    )
    return lr, hr


def our_step(recipe: Recipe, batch: tuple[Tensor, Tensor]) -> Step:
    """A step as `loop.fit` takes it. It returns the losses."""
    model, generator, _ = build_model(recipe, Fabric(devices=1, precision=recipe.precision))
    average = copy.deepcopy(generator).requires_grad_(False)
    lr, hr = batch
    forever = itertools.repeat(Batch(lr, hr, hr))

    def step() -> dict[str, float]:
        terms = train_step(model, forever, 10_000)
        update_average(average, generator, DECAY, 10_000)
        wait(model)
        return terms

    return step


def wait(model: SRModel) -> None:
    """Until a GPU has done what it was given."""
    if model.fabric.device.type == "cuda":
        torch.cuda.synchronize()


class PlainStep:
    """The same step in plain PyTorch, in the order of BasicSR's `SRModel` and `ESRGANModel`."""

    def __init__(self, recipe: Recipe, batch: tuple[Tensor, Tensor]) -> None:
        plain = recipe.model_copy(update={"channels_last": False})
        model, self.generator, _ = build_model(plain, Fabric(devices=1))  # fresh networks, with the same weights
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.batch = tuple(pictures.to(model.fabric.device) for pictures in batch)
        self.model = model
        self.weights = {type(loss): loss.weight for loss in recipe.losses}
        self.vgg = next((vgg for vgg in model.vgg if vgg is not None), None)
        self.optimiser_g = torch.optim.Adam(self.generator.parameters(), recipe.optimiser.lr)
        if model.discriminator is not None:
            self.discriminator = model.discriminator.network
            self.optimiser_d = torch.optim.Adam(self.discriminator.parameters(), recipe.optimiser.lr)

    def __call__(self) -> dict[str, float]:
        """One step; returns the losses."""
        lr, hr = (pictures.float() / 255 for pictures in self.batch)
        if self.model.discriminator is not None:
            self.discriminator.requires_grad_(False)
        self.optimiser_g.zero_grad()
        sr = self.generator(lr)
        losses = {"l1": self.weights[PixelLoss] * F.l1_loss(sr, hr)}
        if self.model.discriminator is not None:
            losses |= self.perceptual_and_adversarial(sr, hr)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        self.optimiser_g.step()
        if self.model.discriminator is not None:
            losses |= self.discriminate(sr, hr)
        for average, parameter in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.data.mul_(DECAY).add_(parameter.data, alpha=1 - DECAY)
        wait(self.model)
        return {name: loss.item() for name, loss in losses.items()}

    def perceptual_and_adversarial(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The generator's other losses; two passes of the discriminator."""
        assert self.vgg is not None, "ESRGAN has one"
        features = F.l1_loss(self.vgg(sr)["conv5_4"], self.vgg(hr.detach())["conv5_4"].detach())
        real, fake = self.discriminator(hr).detach(), self.discriminator(sr)
        adversarial = logistic(real - fake.mean(), 0.0) + logistic(fake - real.mean(), 1.0)
        return {
            "perceptual": self.weights[PerceptualLoss] * features,
            "adversarial": self.weights[AdversarialLoss] * adversarial,
        }

    def discriminate(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The discriminator's step; three passes and two backward passes."""
        self.discriminator.requires_grad_(True)
        self.optimiser_d.zero_grad()
        fake = self.discriminator(sr).detach()
        real = self.discriminator(hr)
        on_real = logistic(real - fake.mean(), 1.0)
        torch.autograd.backward(on_real)
        fake = self.discriminator(sr.detach())
        on_fake = logistic(fake - real.mean().detach(), 0.0)
        torch.autograd.backward(on_fake)
        self.optimiser_d.step()
        return {"discriminator": on_real + on_fake}


def logistic(logits: Tensor, target: float) -> Tensor:
    """The standard GAN's loss."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def check_same(plain: Step, ours: Step) -> None:
    """Both first steps minimise the same: a faster step that does less would prove nothing."""
    expected, got = plain(), ours()
    assert isinstance(expected, dict), "losses by name"
    assert isinstance(got, dict), "likewise"
    if expected.keys() != got.keys() or any(abs(got[key] / expected[key] - 1) > 1e-3 for key in expected):
        raise SystemExit(f"these are different steps: {expected} and {got}")


def data_share(recipe: Recipe, steps: int) -> float:
    """Share of the time that a step waits for its data, which one thread cuts beside it."""
    crops, _ = open_data(recipe, 4)
    model, _, _ = build_model(recipe, Fabric(devices=1, precision=recipe.precision))
    timed = TimedBatches(batches(crops, 0, recipe.batch))
    take = partial(train_step, model, timed, 0)
    take()
    timed.waited = 0.0
    (seconds,) = interleaved({"step": take}, steps).values()
    return timed.waited / sum(seconds)


def write_random_vgg(path: Path) -> Path:
    """VGG19 up to conv5_4, in torchvision's names."""
    torch.manual_seed(0)
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    convolutions = [index for index, layer in enumerate(layer_names("vgg19")) if layer.startswith("conv")]
    state: dict[str, Tensor] = {}
    for index, (inputs, outputs) in zip(convolutions, itertools.pairwise(widths), strict=True):
        weight = nn.init.kaiming_normal_(torch.empty(outputs, inputs, 3, 3))
        state |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(outputs)}
    torch.save(state, path)
    return path


def report(name: str, seconds: Mapping[str, list[float]], share: float) -> dict[str, Any]:
    """Print the table of one recipe."""
    print(f"{name}\n{'':24} {'median s':>9} {'faster':>8}")
    faster = {contender: ratio(seconds[PLAIN], times) for contender, times in seconds.items()}
    for contender, times in seconds.items():
        print(f"{contender:24} {median(times):9.3f} {faster[contender]:7.2f}x")
    best = max(faster.values())
    print(f"fastest {best:.2f}x (target {TARGET}x: {'met' if best >= TARGET else 'missed'})")
    print(f"waiting for data: {share:.1%} of a step (target {DATA_TARGET:.0%})\n")
    rows = [
        {"contender": contender, "seconds": times, "median_s": median(times), "faster": faster[contender]}
        for contender, times in seconds.items()
    ]
    return {"contenders": rows, "met": best >= TARGET, "data_share": share, "data_met": share < DATA_TARGET}


if __name__ == "__main__":
    main()
