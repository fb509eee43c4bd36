"""The recipes of this package: complete, buildable, and with the numbers of what they are named after."""

import re
from functools import cache

import pytest

from esrgan_train.recipe import load_recipe, read_recipe, recipe_names, recipe_text

parse = cache(read_recipe)


def perceptual(recipe):
    return next(loss for loss in recipe.losses if loss.loss == "perceptual")


FAMILIES = {
    "paper": [
        *("srresnet-mse", "srresnet-vgg22", "srgan-mse", "srgan-vgg22", "srgan-vgg54"),
        *("rrdb-psnr", "rrdb-psnr-df2k", "esrgan"),
        *("ablation-2-srgan", "ablation-3-no-bn", "ablation-4-before-activation", "ablation-5-ragan"),
        *("ablation-5b-dense", "ablation-6-rrdb"),
        *("ablation-psnr-rb-bn", "ablation-psnr-rb", "ablation-psnr-dense"),
    ],
    "basicsr": ["msrresnet", "msrgan", "rrdbnet-psnr", "esrgan"],
    "compact": ["psnr", "gan"],
    "debug": ["psnr", "gan"],
    "ordinary": ["psnr", "gan"],
    "realesrgan": ["net", "gan"],
}


def test_the_families_are_complete():
    assert recipe_names() == sorted(f"{family}/{name}" for family, names in FAMILIES.items() for name in names)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_with_its_networks_and_names_its_table(name):
    recipe = load_recipe(name)
    assert len(recipe.compared_with) > 30
    assert recipe.description[0] != " "
    assert len(recipe.description) <= 84, "one line of `list`"


@pytest.mark.parametrize("name", [name for name in recipe_names() if parse(name).start_from])
def test_every_gan_starts_from_the_result_of_another_recipe(name):
    recipe = parse(name)
    found = re.fullmatch(r"runs/(.+)/last\.safetensors", recipe.start_from.as_posix())
    parent = parse(found[1])
    assert parent.discriminator is None
    assert parent.network == recipe.network
    assert recipe.discriminator is not None
    assert not recipe.ema or parent.ema, "averaged weights go with averaged weights"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("basicsr/msrresnet", 1_517_571),  # BasicSR's log
        ("basicsr/rrdbnet-psnr", 16_697_987),  # docs of Real-ESRGAN
        ("paper/rrdb-psnr", 16_697_987),
        ("basicsr/esrgan", 16_697_987),
        ("realesrgan/gan", 16_697_987),
        ("ordinary/gan", 621_424),  # realesr-animevideov3's file
    ],
)
def test_generators_have_the_published_number_of_parameters(name, parameters):
    torch = pytest.importorskip("torch")
    from esrgan_export.networks import build

    with torch.device("meta"):
        assert build(parse(name).network).parameter_count() == parameters


@pytest.mark.parametrize("name", ["paper/esrgan", "basicsr/esrgan", "basicsr/msrgan", "paper/ablation-2-srgan"])
def test_their_discriminator_is_vgg128(name):
    torch = pytest.importorskip("torch")
    from esrgan_train.discriminators import build

    with torch.device("meta"):
        assert build(parse(name).discriminator.network).parameter_count() == 14_499_401


def test_basicsr_has_the_numbers_of_the_official_files():
    """train_MSRResNet_x4, train_MSRGAN_x4, train_RRDBNet_PSNR_x4 and train_ESRGAN_x4, copied by hand."""
    for name in ("msrresnet", "rrdbnet-psnr"):
        recipe = parse(f"basicsr/{name}")
        assert (recipe.data.patch, recipe.batch, recipe.steps) == (128, 16, 1_000_000)
        assert recipe.optimiser.model_dump() == {"lr": 2e-4, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0}
        assert recipe.schedule.model_dump() == {"schedule": "cosine", "periods": 4, "floor": 1e-7, "warmup": 0}
        assert [loss.model_dump() for loss in recipe.losses] == [{"loss": "l1", "weight": 1}]
        assert (recipe.init, recipe.ema, recipe.seed, recipe.start_from) == ("official", 0.999, 0, None)
    for name, relativistic in (("msrgan", False), ("esrgan", True)):
        recipe = parse(f"basicsr/{name}")
        assert (recipe.data.patch, recipe.batch, recipe.steps, recipe.ema) == (128, 16, 400_000, 0.999)
        for optimiser in (recipe.optimiser, recipe.discriminator.optimiser):
            assert (optimiser.lr, optimiser.betas, optimiser.weight_decay) == (1e-4, (0.9, 0.99), 0)
        assert (recipe.schedule.at, recipe.schedule.factor) == ([50_000, 100_000, 200_000, 300_000], 0.5)
        pixel, perceptual, adversarial = recipe.losses
        assert pixel.model_dump() == {"loss": "l1", "weight": 1e-2}
        assert (perceptual.network, perceptual.layers, perceptual.criterion) == ("vgg19", {"conv5_4": 1}, "l1")
        assert (perceptual.weight, perceptual.normalisation) == (1, "torchvision")
        assert (adversarial.kind, adversarial.weight, adversarial.relativistic) == ("standard", 5e-3, relativistic)
        assert recipe.discriminator.steps == 1
    for name in FAMILIES["basicsr"]:
        assert parse(f"basicsr/{name}").data.flips
        assert parse(f"basicsr/{name}").data.rotations


def test_realesrgan_has_the_numbers_of_the_official_files():
    """train_realesrnet_x4plus and train_realesrgan_x4plus, copied by hand."""
    net, gan = parse("realesrgan/net"), parse("realesrgan/gan")
    for recipe, steps, lr in ((net, 1_000_000, 2e-4), (gan, 400_000, 1e-4)):
        assert (recipe.data.patch, recipe.batch, recipe.steps, recipe.ema) == (256, 4 * 12, steps, 0.999)
        assert (recipe.optimiser.lr, recipe.optimiser.betas, recipe.schedule.schedule) == (lr, (0.9, 0.99), "constant")
        assert (recipe.data.flips, recipe.data.rotations) == (True, False)
        degradation = recipe.data.train[0].degradation
        assert degradation.sharpen_target
        assert degradation.video is None
        assert degradation.final_sinc_probability == 0.8
        for stage, blur, resize, range_, noise, poisson in (
            (degradation.first, 1.0, (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3)),
            (degradation.second, 0.8, (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5)),
        ):
            assert (stage.blur_probability, stage.sinc_probability) == (blur, 0.1)
            assert (stage.resize.up, stage.resize.down, stage.resize.keep) == resize
            assert (stage.resize_range, stage.gaussian_noise_sigma, stage.poisson_noise_scale) == (
                range_,
                noise,
                poisson,
            )
            assert (stage.gaussian_noise_probability, stage.jpeg_quality) == (0.5, (30, 95))
    assert [loss.model_dump() for loss in net.losses] == [{"loss": "l1", "weight": 1}]
    pixel, perceptual, adversarial = gan.losses
    assert pixel.model_dump() == {"loss": "l1", "weight": 1}
    assert perceptual.layers == {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    assert (perceptual.network, perceptual.weight, perceptual.criterion) == ("vgg19", 1, "l1")
    assert (adversarial.kind, adversarial.weight, adversarial.relativistic) == ("standard", 0.1, False)
    assert gan.discriminator.network == {"name": "UNetDiscriminator", "channels": 64, "skip": True}
    assert (gan.discriminator.optimiser.lr, gan.discriminator.optimiser.betas) == (1e-4, (0.9, 0.99))


def test_srgan_has_the_numbers_of_its_paper():
    start = parse("paper/srresnet-mse")
    assert (start.network["name"], start.network["blocks"], start.data.patch, start.batch) == ("SRResNet", 16, 96, 16)
    assert (start.optimiser.lr, start.optimiser.betas[0], start.steps) == (1e-4, 0.9, 10**6)
    assert (start.schedule.schedule, start.losses[0].model_dump()) == ("constant", {"loss": "mse", "weight": 4})
    content = {"srgan-mse": ("mse", None), "srgan-vgg22": ("mse", "relu2_2"), "srgan-vgg54": ("mse", "relu5_4")}
    for name, (criterion, layer) in content.items():
        recipe = parse(f"paper/{name}")
        first, adversarial = recipe.losses
        assert (adversarial.weight, adversarial.kind, adversarial.relativistic) == (1e-3, "standard", False)
        if layer is None:
            assert first.model_dump() == {"loss": criterion, "weight": 4}
        else:
            assert (first.layers, first.criterion) == ({layer: 1}, criterion)
            assert first.weight == pytest.approx(1 / 12.75**2, rel=1e-3)
        assert (recipe.steps, recipe.schedule.at) == (2 * 10**5, [10**5])
        assert recipe.optimiser.lr * recipe.schedule.factor == pytest.approx(1e-5)
        assert recipe.discriminator.network == {"name": "SRGANDiscriminator", "size": 96, "channels": 64}


def test_total_variation_belongs_to_one_recipe_alone():
    having = [name for name in recipe_names() if any(loss.loss == "total-variation" for loss in parse(name).losses)]
    assert having == ["paper/srresnet-vgg22"]
    assert parse(having[0]).losses[1].weight == pytest.approx(2 * 2e-8), "gradients are halved with the range"


def test_esrgan_has_the_numbers_of_its_paper():
    start, recipe = parse("paper/rrdb-psnr-df2k"), parse("paper/esrgan")
    assert (start.optimiser.lr, start.data.patch, start.init) == (2e-4, 192, "small")
    assert (start.schedule.at, start.schedule.factor) == ([200_000, 400_000, 600_000, 800_000], 0.5)
    assert (recipe.optimiser.lr, recipe.data.patch, recipe.batch) == (1e-4, 128, 16)
    assert (recipe.schedule.at, recipe.schedule.factor) == ([50_000, 100_000, 200_000, 300_000], 0.5)
    perceptual, pixel, adversarial = recipe.losses
    assert (perceptual.network, perceptual.layers, pixel.weight) == ("vgg19", {"conv5_4": 1}, 1e-2)
    assert adversarial.model_dump() == {
        **{"loss": "adversarial", "weight": 5e-3, "kind": "standard", "relativistic": True},
        **{"mean_over": "all", "detach": "none", "terms": "sum"},
    }
    assert all(item.optimiser.betas == (0.9, 0.999) for item in (start, recipe, recipe.discriminator))
    assert (start.ema, recipe.ema) == (None, None)


@pytest.mark.parametrize(
    ("kind", "value", "paper", "official"),
    [
        ("esrgan", lambda r: r.optimiser.betas[1], 0.999, 0.99),
        ("psnr", lambda r: r.schedule.schedule, "multistep", "cosine"),
        ("psnr", lambda r: r.data.patch, 192, 128),
        ("esrgan", lambda r: r.steps, 500_000, 400_000),
        ("esrgan", lambda r: len(r.data.train), 3, 1),
        ("esrgan", lambda r: r.losses[2].terms, "sum", "mean"),
        ("esrgan", lambda r: r.losses[2].detach, "none", "opposite"),
        ("psnr", lambda r: r.init, "small", "official"),
        ("esrgan", lambda r: r.ema, None, 0.999),
        ("srgan", lambda r: r.network["name"], "SRResNet", "MSRResNet"),
        ("srgan", lambda r: [loss.loss for loss in r.losses if loss.loss == "l1"], [], ["l1"]),
        ("srgan", lambda r: list(perceptual(r).layers), ["relu5_4"], ["conv5_4"]),
        ("srgan", lambda r: perceptual(r).criterion, "mse", "l1"),
        ("srgan", lambda r: (r.steps, len(r.schedule.at)), (200_000, 1), (400_000, 4)),
        ("srgan", lambda r: r.losses[-1].weight, 1e-3, 5e-3),
        ("srgan", lambda r: r.discriminator.network["name"], "SRGANDiscriminator", "VGGDiscriminator"),
        ("srgan", lambda r: (r.data.patch, r.data.flips), (96, False), (128, True)),
    ],
)  # fmt: skip
def test_where_paper_and_official_files_differ_the_families_do(kind, value, paper, official):
    pairs = {
        "esrgan": ("paper/esrgan", "basicsr/esrgan"),
        "psnr": ("paper/rrdb-psnr", "basicsr/rrdbnet-psnr"),
        "srgan": ("paper/srgan-vgg54", "basicsr/msrgan"),
    }
    ours, theirs = pairs[kind]
    assert value(parse(ours)) == paper
    assert value(parse(theirs)) == official


LADDER = [
    ("ablation-2-srgan", None),
    ("ablation-3-no-bn", "network"),
    ("ablation-4-before-activation", "features"),
    ("ablation-5-ragan", "relativistic"),
    ("ablation-5b-dense", "network"),
    ("ablation-6-rrdb", "network"),
    ("esrgan", "data"),
]
ASPECTS = {
    "network": "network",
    "losses.0.layers": "features",
    "losses.2.relativistic": "relativistic",
    "data.train": "data",
}
SILENT = {"description", "compared_with", "gpu_hours", "start_from"}


def flat(value, path=""):
    """Path -> value; what an aspect is made of stays in one piece."""
    if path in ASPECTS or not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, inner in items for k, v in flat(inner, f"{path}.{key}".lstrip(".")).items()}


def differences(first, second):
    """Aspects, or other keys, in which two recipes differ, the recipes that they start from included."""
    one, other = (flat(recipe.model_dump(mode="json", exclude=SILENT)) for recipe in (first, second))
    found = {ASPECTS.get(path, path) for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    if first.start_from and second.start_from:
        found |= differences(*(parse("/".join(recipe.start_from.parts[1:-1])) for recipe in (first, second)))
    return found


@pytest.mark.parametrize("rung", range(1, len(LADDER)))
def test_each_rung_of_the_ablation_differs_from_the_one_before_in_one_thing(rung):
    before, after = (parse(f"paper/{LADDER[i][0]}") for i in (rung - 1, rung))
    assert differences(before, after) == {LADDER[rung][1]}


def test_the_ladder_begins_with_srgan_and_tries_every_block():
    rungs = [parse(f"paper/{name}") for name, _ in LADDER]
    blocks = [rung.network["block"] for rung in rungs]
    assert blocks == ["residual-bn", "residual", "residual", "residual", "dense", "rrdb", "rrdb"]
    assert [list(rung.losses[0].layers) for rung in rungs] == [["relu5_4"]] * 2 + [["conv5_4"]] * 5
    assert [rung.losses[2].relativistic for rung in rungs] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith(("paper/", "basicsr/"))])
def test_gpu_hours_are_the_arithmetic_beside_them(name):
    """Three passes' worth of the generator, three of VGG (HR and SR forward, SR back), seven of the discriminator."""
    text, recipe = recipe_text(name), parse(name)
    tera = 3 * generator_flops(recipe) + 3 * vgg_flops(recipe) + 7 * discriminator_flops(recipe)
    stated = re.search(r"= ([\d.]+) TFLOP a step", text)
    assert float(stated[1]) == pytest.approx(tera * recipe.batch / 1e12, rel=0.05)
    seconds = tera * recipe.batch / 30e12 + 0.010
    assert float(re.search(r"that is (\d+) ms", text)[1]) == pytest.approx(seconds * 1000, abs=1.5)
    assert recipe.gpu_hours == pytest.approx(seconds * recipe.steps / 3600, rel=0.2)
    assert "not measured" in text


def count_flops(build, config, size):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(config).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops()


@cache
def flops_of(kind, config, size):
    from esrgan_export import networks
    from esrgan_train import discriminators

    return count_flops({"g": networks, "d": discriminators}[kind].build, dict(config), size)


def generator_flops(recipe):
    return flops_of("g", tuple(recipe.network.items()), recipe.data.patch // 4)


def discriminator_flops(recipe):
    section = recipe.discriminator
    return flops_of("d", tuple(section.network.items()), recipe.data.patch) if section else 0


def vgg_flops(recipe):
    """VGG19 is published with 19.6 G multiplications for 224x224 pixels, of which its dense layers take 0.12."""
    layers = [layer for loss in recipe.losses if loss.loss == "perceptual" for layer in loss.layers]
    if not layers:
        return 0
    share = {"relu2_2": 0.2415, "relu5_4": 1, "conv5_4": 1}[layers[0]]
    return 2 * share * 19.51e9 * (recipe.data.patch / 224) ** 2
