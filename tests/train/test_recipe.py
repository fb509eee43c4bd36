"""Recipes: what they refuse and in which words, what `--set` does, and that they mean what they say."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esrgan_deploy.errors import OptionError
from esrgan_train.recipe import AdversarialLoss, Recipe, load_recipe, parse_recipe, recipe_names, recipe_text
from esrgan_train.recipe.yaml_file import read_yaml

GAN = "debug/gan"
VGG = "{loss: perceptual, layers: {%s: 1}}"


CONTENT = {name: yaml.safe_load(recipe_text(name)) for name in recipe_names()}


def parse(name, *settings):
    return parse_recipe(deepcopy(CONTENT[name]), name, settings)


def refusal(*settings, name=GAN, load=parse):
    """The one line that `load` refuses with, its label taken off."""
    with pytest.raises(OptionError) as error:
        load(name, *settings)
    text = str(error.value)
    assert "\n" not in text
    return text.removeprefix(f"{name}: ")


# What is refused, and in which words.


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("leraning_rate=1e-4", "unknown key 'leraning_rate'; did you mean 'optimiser.lr'?"),
        ("optimiser.leraning_rate=1e-4", "unknown key 'leraning_rate' in optimiser; did you mean 'lr'?"),
        ("optimizer.lr=1e-4", "unknown key 'optimizer'; did you mean 'optimiser'?"),
        ("discriminator.optimiser.lrr=1", "unknown key 'lrr' in discriminator.optimiser; did you mean 'lr'?"),
        ("losses.0.wieght=1", "unknown key 'wieght' in losses.0; did you mean 'weight'?"),
        ("losses.1.relativstic=true", "unknown key 'relativstic' in losses.1; did you mean 'relativistic'?"),
        ("losses.0.kind=standard", "unknown key 'kind' in losses.0; known are loss, weight"),
        ("data.train.0.foldr=x", "unknown key 'foldr' in data.train.0; did you mean 'folder'?"),
        ("data.train.0.degradation.frist={}", "unknown key 'frist' in data.train.0.degradation; did you mean 'first'?"),
        (
            "data.train.0.degradation.second.jpg_quality=[1, 2]",
            "unknown key 'jpg_quality' in data.train.0.degradation.second; did you mean 'jpeg_quality'?",
        ),
        ("data.batch_size=16", "unknown key 'batch_size' in data; did you mean 'batch'?"),
        ("total_iter=4e5", "unknown key 'total_iter'; did you mean 'steps'?"),
        ("schedule.milestones=[1]", "unknown key 'milestones' in schedule; did you mean 'at'?"),
        ("patch=128", "unknown key 'patch'; did you mean 'data.patch'?"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(setting, says):
    assert refusal(setting) == says


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("losses.0.weight=-1", "losses.0.weight: input should be greater than or equal to 0 (it is -1)"),
        ("losses.0.weight=.nan", "losses.0.weight: input should be a finite number (it is nan)"),
        ("losses.0.loss=l3", "losses.0: 'l3' is unknown; known are adversarial, charbonnier, l1, mse, perceptual, "),
        ("losses.0={}", "losses.0: does not say which loss it is"),
        ("losses=[]", "losses: list should have at least 1 item"),
        (
            "losses.0={loss: perceptual, layers: {conv5_4: -1}}",
            "losses.0.layers.conv5_4: input should be greater than ",
        ),
        ("losses.0={loss: perceptual, layers: {}}", "losses.0.layers: dictionary should have at least 1 item"),
        ("losses.0={loss: perceptual, network: vgg91}", "losses.0.network: 'vgg91' is unknown; did you mean 'vgg19'?"),
        ("losses.0={loss: adversarial}", "losses hold two adversarial ones"),
        ("losses=[{loss: l1}]", "an adversarial loss and a discriminator go together"),
        ("discriminator=null", "an adversarial loss and a discriminator go together"),
        ("optimiser.lr=0", "optimiser.lr: input should be greater than 0 (it is 0)"),
        ("optimiser.betas=[0.9, 1]", "optimiser.betas.1: input should be less than 1 (it is 1)"),
        ("optimiser.betas=[-0.1, 0.9]", "optimiser.betas.0: input should be greater than or equal to 0 (it is -0.1)"),
        ("schedule.at=[60]", "schedule.at 60 is beyond the 60 steps of the run; shorten it, or --set 'schedule="),
        ("schedule.at=[20, 20]", "schedule: at [20, 20] does not ascend"),
        ("schedule={schedule: cosin}", "schedule: 'cosin' is unknown; did you mean 'cosine'?"),
        ("schedule={schedule: cosine, warmup: 60}", "schedule.warmup 60 is as long as a period of 60 steps"),
        (
            "schedule={schedule: cosine, periods: 6, warmup: 10}",
            "schedule.warmup 10 is as long as a period of 10 steps",
        ),
        ("schedule={schedule: cosine, floor: 1e-3}", "schedule.floor 0.001 is above lr"),
        ("steps=many", "steps: input should be a valid integer"),
        ("batch=2.5", "batch: input should be a valid integer, got a number with a fractional part (it is 2.5)"),
        ("batch=null", "batch: input should be a valid integer (it is None)"),
        ("ema=1", "ema: input should be less than 1 (it is 1)"),
        ("precision=fp16", "precision: 'fp16' is unknown; known are 16-mixed, 32-true, bf16-mixed"),
        ("init=smal", "init: 'smal' is unknown; did you mean 'small'?"),
        ("data.train=[]", "data.train: list should have at least 1 item"),
        ("data.train.0.ratio=0", "data.train.0.ratio: input should be greater than 0 (it is 0)"),
        (
            "data.train.0={folder: a, lr: b, shrink: 2}",
            "data.train.0: shrink 2 makes HR smaller, so that lr no longer fits",
        ),
        (
            "data.train.0={folder: a, lr: b, degradation: {}}",
            "data.train.0: lr and degradation both say where LR comes",
        ),
        ("data.train.0.degradation.first.jpeg_quality=[0, 5]", "data.train.0.degradation.first.jpeg_quality.0: input "),
        ("validation.best=psnr", "validation.best psnr would pick the most blurred weights of a GAN"),
        ("validation.best=niqe", "validation: best is niqe, which is not measured"),
        ("validation.alphas=[0.5]", "validation.alphas blends with start_from, which is not set"),
        ("validation.alphas=[1.5]", "validation.alphas.0: input should be less than or equal to 1 (it is 1.5)"),
        ("validation.metrics=[lpips]", "validation.metrics.0: 'lpips' is unknown; known are niqe, psnr, ssim"),
        ("validation.tile=32", "validation.tile: input should be greater than or equal to 64 (it is 32)"),
        ("network=RRDBNet", "network: needs a name and arguments, for instance {name: RRDBNet, blocks: 23}"),
        ("network.blocks=2.5", "network: blocks is 2.5; arguments are whole numbers, words, true or false"),
    ],
)
def test_values_that_cannot_be_right_are_refused(setting, says):
    assert refusal(setting).startswith(says)


@pytest.mark.parametrize(
    ("layer", "network", "says"),
    [
        ("conv5_5", "vgg19", "losses.0: vgg19 has no layer 'conv5_5'; did you mean 'conv5_4'?"),
        ("conv5_4", "vgg16", "losses.0: vgg16 has no layer 'conv5_4'; did you mean 'conv5_3'?"),
        ("vgg54", "vgg19", "losses.0: vgg19 has no layer 'vgg54'; known are conv1_1, conv1_2, "),
    ],
)
def test_a_vgg_layer_that_does_not_exist_is_refused_before_any_file_is_looked_for(layer, network, says):
    loss = f"losses.0={{loss: perceptual, network: {network}, layers: {{{layer}: 1}}, weights: nowhere.pth}}"
    assert refusal(loss).startswith(says)


@pytest.mark.parametrize(("layer", "smallest"), [("conv1_1", 1), ("relu2_2", 2), ("pool2", 4), ("conv5_4", 16)])
def test_a_patch_of_which_vgg_leaves_nothing_is_refused(layer, smallest):
    assert parse(GAN, f"losses.0={VGG % layer}", f"data.patch={smallest}").data.patch == smallest
    if smallest > 1:
        says = f"data.patch {smallest - 1} is too small for the perceptual loss: {layer} need {smallest} pixels"
        assert refusal(f"losses.0={VGG % layer}", f"data.patch={smallest - 1}") == says


def test_psnr_may_pick_the_best_where_no_gan_is():
    assert parse("debug/psnr", "validation.best=psnr").validation.best == "psnr"
    assert "needs a folder" in refusal("validation.best=psnr", "validation.folder=null", name="debug/psnr")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["network.name=RRDBnet"], "network: 'RRDBnet' is unknown; did you mean 'RRDBNet'?"),
        (["network.chanels=8"], "network: RRDBNet has no 'chanels'; did you mean 'channels'?"),
        (["network.scale=3"], "network: RRDBNet: scale 3 is not one of 1, 2, 4, 8"),
        (["network.blocks=0"], "network: RRDBNet cannot be built with"),
        (["data.patch=30"], "data.patch 30 is no multiple of the network's scale 4"),
        (
            ["network.scale=2", "init=official", "data.patch=34"],
            "data.patch 34 is no multiple of the network's scale 2 times 2,",
        ),
        (["network.scale=2"], "init 'interpolating' is made for RRDBNet x4 and x8 with 3 channels or more, not name "),
        (["network={name: MSRResNet, blocks: 1}"], "init 'interpolating' is made for RRDBNet"),
        (["discriminator.network.name=VGG"], "discriminator.network: 'VGG' is unknown; known are Patch"),
        (
            ["discriminator.network.sizes=32"],
            "discriminator.network: VGGDiscriminator has no 'sizes'; did you mean 'size'",
        ),
        (
            ["discriminator.network.size=40"],
            "discriminator.network: VGGDiscriminator takes pictures whose side is a mul",
        ),
        (
            ["data.patch=64"],
            "discriminator: data.patch 64 does not fit: VGGDiscriminator was built for 32x32 pixels and",
        ),
        (
            ["discriminator.network={name: PatchDiscriminator, layers: 5}"],
            "discriminator: data.patch 32 does not fit: ",
        ),
        (["discriminator.gradient_penalty=10"], "discriminator: gradient_penalty and r1 need the gradient of each"),
        (
            ["discriminator.r1=10"],
            "discriminator: gradient_penalty and r1 need the gradient of each picture alone, and the",
        ),
        (
            ["losses.1.kind=wasserstein"],
            "discriminator: with wasserstein its output grows without end; set discriminator.gradie",
        ),
    ],
)
def test_networks_that_do_not_exist_or_fit_are_refused_with_the_recipe(settings, says):
    assert refusal(settings, load=load_recipe).startswith(says)


@pytest.mark.parametrize(
    "settings",
    [
        ["losses.1.kind=wasserstein"],  # spectral norm bounds it
        ["losses.1.kind=wasserstein", "discriminator.gradient_penalty=10"],
        ["losses.1.kind=least-squares", "discriminator.r1=10"],
    ],
)
def test_penalties_go_with_a_discriminator_without_batch_normalisation(settings):
    unet = "discriminator.network={name: UNetDiscriminator, channels: 4}"
    assert load_recipe(GAN, [unet, *settings]).losses[1].relativistic


def test_looking_at_the_networks_draws_no_random_number():
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_recipe(GAN)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("esrgan", "recipe 'esrgan' is unknown; did you mean '"),
        ("paper/esrgann", "recipe 'paper/esrgann' is unknown; did you mean 'paper/esrgan'? Files end in .yaml"),
        ("missing.yaml", "cannot be read: No such file or directory; `esrgan-train new` writes one"),
        ("folder.yaml", "is a folder; `esrgan-train new` writes one"),
        ("binary.yaml", "is no text; give a recipe in YAML, UTF-8"),
        ("empty.yaml", "holds no recipe; `esrgan-train new NAME` writes one to begin with"),
        ("list.yaml", "holds no recipe"),
        ("colon.yaml", "is no YAML in line 2: mapping values are not allowed here"),
        ("open.yaml", "is no YAML in line 1: "),
        ("twice.yaml", "is no YAML in line 3: 'losses' is there twice"),
        ("month.yaml", "is no YAML: month must be in 1..12"),
        ("keys.yaml", "is no YAML in line 1: found unhashable key"),
        ("code.yaml", "is no YAML in line 1: could not determine a constructor for the tag"),
        ("few.yaml", "compared_with: is missing; every recipe needs it"),
    ],
)
def test_files_that_are_no_recipe_are_one_line(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    Path("binary.yaml").write_bytes(bytes(range(256)))
    for file, text in {
        "empty": "",
        "list": "- steps: 3",
        "colon": "description: one\ncompared_with: a: b\n",
        "open": "data: {train: [",
        "twice": "losses: [{loss: l1}]\nsteps: 3\nlosses: [{loss: mse}]\n",
        "month": "description: 2020-13-01",
        "keys": "{a: 1, [b]: 2}",
        "code": "description: !!python/object/apply:os.system [ls]",
        "few": "description: x",
    }.items():
        Path(f"{file}.yaml").write_text(text)
    assert refusal([], name=name, load=load_recipe).startswith(says)


# --set


def test_settings_reach_every_kind_of_place():
    recipe = parse(
        GAN,
        "steps=1e3",  # a word in YAML 1.1
        "optimiser.lr=1e-5",
        "data.train.0.folder=a=b",
        "losses.0.weight=2",
        "clip_gradient=1",
        "data.train.0.degradation={}",
        "data.train.0.degradation.second.jpeg_quality=[50, 60]",
        "validation.folder=null",
        "discriminator.network.channels=16",
        "schedule={schedule: constant}",
    )
    assert (recipe.steps, recipe.optimiser.lr, recipe.data.train[0].folder) == (1000, 1e-5, "a=b")
    assert (recipe.losses[0].weight, recipe.clip_gradient, recipe.validation.folder) == (2, 1, None)
    assert recipe.data.train[0].degradation.second.jpeg_quality == (50, 60)
    assert recipe.data.train[0].degradation.first.jpeg_quality == (30, 95)
    assert recipe.discriminator.network == {"name": "VGGDiscriminator", "size": 32, "channels": 16}
    assert recipe.schedule.schedule == "constant"


def test_later_settings_win_and_missing_sections_are_made():
    content = {"validation": None}
    base = deepcopy(CONTENT["debug/psnr"])
    settings = ["validation.every=7", "validation.every=9"]
    assert parse_recipe(base | content, "x", settings).validation.every == 9
    del base["validation"]
    assert parse_recipe(base, "x", settings).validation.every == 9


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("steps", "--set steps: is not KEY=VALUE, for instance --set data.patch=128"),
        ("=3", "--set =3: is not KEY=VALUE"),
        ("steps=[1", "--set steps=[1: is no YAML in line 1"),
        ("data.train.1.folder=x", "--set data.train.1.folder=x: '1' is no item of a list of 1; they count from 0"),
        ("data.train.-1.folder=x", "--set data.train.-1.folder=x: '-1' is no item of a list of 1"),
        ("data.train.folder=x", "--set data.train.folder=x: 'folder' is no item of a list of 1"),
        ("steps.x=1", "--set steps.x=1: there is no 'x' in 60, which is a single value"),
    ],
)
def test_settings_that_say_nothing_are_refused(setting, says):
    assert refusal(setting).startswith(says)


@settings(max_examples=100)
@given(
    st.one_of(
        st.text(),
        st.builds(
            "{}={}".format, st.sampled_from(["steps", "losses.0", "data.train.0.folder", "network.name"]), st.text()
        ),
        st.builds("{}={}".format, st.text("abc.0²٣ "), st.text("[]{}:,!&*-0129eE.'\"~<\n ")),
    )
)
def test_whatever_is_set_gives_a_recipe_or_one_line(setting):
    try:
        parse(GAN, setting)
    except OptionError as error:
        message = str(error).replace(setting, "")
    else:
        message = ""
    assert "\n" not in message


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-30, max_value=1e30))
def test_numbers_mean_the_same_written_in_any_way(value):
    for text in (repr(value), f"{value:e}", f"{value:.0e}", f"{value:E}"):
        assert read_yaml(text, "") == float(text), text


# What a recipe means


def keys_of(value, prefix=""):
    """Every path to a single value."""
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in keys_of(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [path for i, inner in enumerate(value) for path in keys_of(inner, f"{prefix}{i}.")]
    return [prefix[:-1]]


@pytest.mark.parametrize("name", recipe_names())
def test_the_effective_recipe_says_everything_and_means_the_same(name):
    recipe = parse(name)
    effective = yaml.safe_load(recipe.to_yaml())
    again = parse_recipe(effective, "")
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert set(Recipe.model_fields) == set(effective)
    assert set(keys_of(CONTENT[name])) <= set(keys_of(effective))


@settings(max_examples=50)
@example(words="\x85\u2028é", weight=1, betas=(0, 0), layers={"pool3": 1}, at={1}, steps=1, ema=None, lr=1)
@example(words="1e5", weight=1, betas=(0, 0), layers={"pool3": 1}, at={1}, steps=1, ema=None, lr=1)
@given(
    weight=st.floats(0, 1e6), betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), words=st.text(),
    layers=st.dictionaries(st.sampled_from(["conv1_1", "relu5_4", "pool3"]), st.floats(0, 1), min_size=1),
    at=st.sets(st.integers(1, 10**6), min_size=1), steps=st.integers(1, 10**9), ema=st.none() | st.floats(0, 0.999),
    lr=st.floats(1e-12, 1),
)  # fmt: skip
def test_any_recipe_survives_its_own_yaml(weight, betas, steps, words, layers, at, ema, lr):
    content = CONTENT[GAN] | {
        "description": words,
        "losses": [
            {"loss": "perceptual", "layers": layers, "weight": weight, "weights": words or None},
            {"loss": "adversarial"},
        ],
        "optimiser": {"betas": list(betas), "lr": lr},
        "schedule": {"schedule": "multistep", "at": sorted(at)},
        "steps": steps + max(at),
        "ema": ema,
    }
    recipe = parse_recipe(content, "")
    assert parse_recipe(read_yaml(recipe.to_yaml(), ""), "") == recipe


@pytest.mark.parametrize(
    "setting",
    [
        "description=x", "compared_with=x", "gpu_hours=9", "log_every=1", "save_every=1", "validation.folder=elsewhere",
        "validation.every=1", "data.workers=4", "data.cache=elsewhere", "start_from=moved.safetensors", "steps=1000",
    ],
)  # fmt: skip
def test_the_digest_ignores_what_cannot_change_a_weight(setting):
    assert parse(GAN, setting).digest() == parse(GAN).digest()


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1", "network.blocks=2", "init=small", "data.patch=64", "data.train.0.ratio=2", "data.train.0.folder=x",
        "data.flips=false", "data.textured_of=2", "losses.0.weight=2", "losses.1.terms=mean", "optimiser.lr=1e-3",
        "schedule.factor=0.1", "discriminator.steps=2", "discriminator.optimiser.eps=1e-4", "batch=5", "accumulate=2",
        "clip_gradient=1", "ema=null", "precision=bf16-mixed", "channels_last=false", "compile=true",
    ],
)  # fmt: skip
def test_the_digest_changes_with_what_can(setting):
    assert parse(GAN, setting).digest() != parse(GAN).digest()


def test_umlauts_stay_readable():
    assert "folder: Küste" in parse(GAN, "data.train.0.folder=Küste").to_yaml()


def test_the_length_of_a_run_is_part_of_it_where_the_rate_depends_on_it():
    cosine = "schedule={schedule: cosine}"
    assert parse(GAN, cosine, "steps=100").digest() != parse(GAN, cosine).digest()


def test_a_recipe_is_read_without_torch():
    program = (
        "import sys; from esrgan_train.recipe import read_recipe;"
        "read_recipe('paper/esrgan', ['seed=3']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_adversarial_section_is_what_the_loss_takes():
    pytest.importorskip("torch")
    from esrgan_train.losses import adversarial

    section = AdversarialLoss(loss="adversarial")
    assert section.model_dump(exclude={"loss", "weight"}) == asdict(adversarial.AdversarialOptions())
    for key, known in (("kind", adversarial.Kind), ("detach", adversarial.Detach), ("terms", adversarial.Combination)):
        assert get_args(AdversarialLoss.model_fields[key].annotation) == get_args(known)
