"""Recipes and settings that were made to hang, to fill memory or to confuse: one line each, at once."""

import contextlib
import os

import pytest

from esrgan_deploy.errors import EsrganError, MachineError, OptionError
from esrgan_train.cli import main
from esrgan_train.cost_estimate import estimate_cost
from esrgan_train.loop import train
from esrgan_train.recipe import read_recipe
from esrgan_train.recipe.yaml_file import apply_setting, read_yaml

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 14))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 14))
TEXTS = {
    "a billion laughs": LAUGHS,
    "a billion merged keys": MERGES,
    "an alias of itself": "a: &a [*a]",
    "a section that merges itself": "a: &a {<<: *a}",
    "a thousand levels": "[" * 1000 + "]" * 1000,
    "twenty levels": "a: " + "[" * 20 + "]" * 20,
    "megabytes": "a: " + "x" * 3_000_000,
    "a hundred thousand keys": "".join(f"k{n}: 1\n" for n in range(20_001)),
    "a number of 5000 digits": "seed: " + "9" * 5000,
    "a date that is none": "a: 2020-13-45",
    "tabs": "a:\n\t- 1",
    "NUL": "a: \0",
    "Python": "a: !!python/object/apply:os.system [touch ran]",
    "a list as a key": "? [1]\n: 2",
    "a key that is there twice": "a: 1\na: 2",
    "two documents": "a: 1\n---\nb: 2",
    "an unknown alias": "a: *b",
    "nothing but an anchor": "&a",
    "a version from the future": "%YAML 9.9\n---\na: 1",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", TEXTS)
def test_yaml_that_no_recipe_is_made_of(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(TEXTS[what])
    with pytest.raises(OptionError, match=r"^mine\.yaml: ") as caught:
        read_recipe("mine.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "ran").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", TEXTS)
def test_the_same_as_a_setting(what):
    with pytest.raises(OptionError, match=r"--set |seed: ") as caught:
        read_recipe("debug/psnr", [f"seed={TEXTS[what]}"])
    assert len(str(caught.value)) < 1000


def test_aliases_are_fine():
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]"
    assert read_yaml(text, "x") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("data", [b"\xff\xfe\0a", b"a: \xe9", b"\x89PNG"])
def test_bytes_that_are_no_text(data, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(OptionError, match=r"mine\.yaml: is no "):
        read_recipe(str(path))


@pytest.mark.unix("makes pipes and links to devices")
@pytest.mark.parametrize("kind", ["pipe", "zeros", "itself"])
def test_what_is_no_file(kind, tmp_path):
    path = tmp_path / "mine.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else path)
    with pytest.raises(OptionError, match=r"mine\.yaml: .*; `esrgan-train new` writes one"):
        read_recipe(str(path))


INTEGERS = [
    *("seed", "steps", "batch", "accumulate", "log_every", "save_every", "data.patch", "data.textured_of"),
    *("data.workers", "data.train.0.shrink", "validation.every", "validation.tile", "validation.samples"),
    *("discriminator.steps", "network.channels", "network.blocks", "network.scale"),
]
FLOATS = [
    *("gpu_hours", "clip_gradient", "ema", "losses.0.weight", "optimiser.lr", "optimiser.eps", "optimiser.betas.0"),
    *("optimiser.weight_decay", "discriminator.r1", "data.train.0.ratio", "data.train.0.degradation.first.sigma.1"),
]
NUMBERS = {
    "30 digits": "9" * 30,
    "300 digits": "9" * 300,
    "4000 digits": "0x" + "f" * 4000,
    "negative": "-1",
    "nan": ".nan",
    "infinity": ".inf",
    "infinity in decimals": "1e999",
    "true": "true",
    "a time": "1:59:59:59",
    "nothing": "",
    "a list": "[1, 2]",
    "a section": "{a: 1}",
    "words": "many",
}


def made(make, key):
    """Whether `make` returns; otherwise it raises one line that names `key`."""
    try:
        make()
    except EsrganError as error:
        message, code = str(error), error.exit_code
    else:
        return True
    assert code == 2
    assert "\n" not in message
    assert len(message) < 500
    section, _, name = key.rpartition(".")
    assert name in message or section in message
    return False


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", [*INTEGERS, *FLOATS])
def test_numbers_that_are_none(key, make_recipe):
    """Each gives a recipe or one line with the key, and nothing else. What gives a recipe is not enormous."""
    for what, text in NUMBERS.items():
        if made(lambda: make_recipe("gan", f"{key}={text}"), key):  # noqa: B023 - it is called at once
            assert what not in ("nan", "infinity", "infinity in decimals", "300 digits", "words")
            assert key in FLOATS or what not in ("30 digits", "4000 digits", "negative")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "settings",
    [
        ["batch=65536", "data.patch=1024", "discriminator.network.size=1024"],
        ["data.patch=65536", "discriminator.network={name: UNetDiscriminator, channels: 4}"],
        ["network.channels=4096", "network.blocks=60"],
    ],
)
def test_a_step_that_does_not_fit_into_memory(settings, make_recipe, tmp_path):
    recipe = make_recipe("gan", *settings)
    for command in (lambda: train(recipe, tmp_path / "run"), lambda: estimate_cost(recipe)):
        with pytest.raises(MachineError, match=r"^batch \d+ with data\.patch \d+ .*: a training step needs [\d.]+ GiB"):
            command()
    assert not (tmp_path / "run").exists()


def test_an_item_with_a_number_of_5000_digits():
    with pytest.raises(OptionError, match="is no item of a list of 1"):
        apply_setting(f"a.{'9' * 5000}=1", {"a": [1]})


def test_a_setting_deep_below_nothing():
    content = {}
    with pytest.raises(OptionError, match="more than 16 levels"):
        apply_setting(f"{'a.' * 5000}b=1", content)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["debug/psnr", "--devices", "100000"], 3, "--devices 100000: this machine has room for"),
        (["debug/psnr", "--devices", "9" * 5000], 2, "is not a whole number from 1"),
        (["debug/psnr", "--nodes", "\u0663"], 2, "is not a whole number from 1"),
        (["debug/psnr", "--set", "seed=" + "9" * 30], 2, "seed: input should be less than 9223372036854775808"),
        (["qat", "--alpha", "0.5", "--calibrate", ".", "--batch", "999999999"], 3, "--batch 999999999"),
    ],
)
def test_arguments_of_the_command(words, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        assert main(words) == code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("esrgan-train"))
    assert says in line
    assert list(tmp_path.iterdir()) == []
