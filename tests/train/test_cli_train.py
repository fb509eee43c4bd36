"""The command: one line for every mistake, exit code 2, and no traceback."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from esrgan_export.checkpoint import save_checkpoint
from esrgan_export.networks import RRDBNet
from esrgan_train.cli import main
from esrgan_train.recipe import recipe_names, recipe_text
from esrgan_train.run import LAST, RECIPE, STATE
from tiny import command


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def write_text(folder):
    (folder / "notes.txt").write_text("no picture")


def write_16_bit(folder):
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(folder / "deep.png")


def write_cmyk(folder):
    Image.fromarray(picture(64, 64)).convert("CMYK").save(folder / "print.jpg")


def write_small(folder):
    Image.fromarray(picture(20, 20)).save(folder / "small.png")


def write_damaged(folder):
    Image.fromarray(picture(64, 64)).save(folder / "half.png")
    (folder / "half.png").write_bytes((folder / "half.png").read_bytes()[:3000])


def write_nothing(folder):
    pass


DATA = {
    "text": (write_text, "{folder}: holds no pictures; put some there, as one of .png"),
    "16 bit": (write_16_bit, "{folder}/deep.png: holds 16 bit samples; convert it to 8 bit RGB"),
    "CMYK": (write_cmyk, "{folder}/print.jpg: is CMYK; convert it to RGB"),
    "20x20": (
        write_small,
        "{folder}/small.png: is 20x20, smaller than data.patch 32; remove it or make the patch smaller",
    ),
    "damaged": (write_damaged, "{folder}/half.png: is damaged or truncated"),
    "empty": (write_nothing, "{folder}: holds no pictures; put some there, as one of .png"),
    "missing": (Path.rmdir, "{folder}: is no folder; name the folder that holds the pictures"),
}


@pytest.fixture
def fails(capsys, tmp_path):
    """Run the command in this process; gives its one line, without the program's name."""

    def run(*words):
        assert main([*map(str, words), "-o", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "run").exists()
        return line.removeprefix("esrgan-train: ")

    return run


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(fails, recipe_file, tmp_path, case):
    write, says = DATA[case]
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder)
    settings = [f"data.train=[{{folder: {folder}}}]", f"data.cache={tmp_path / 'cache'}"]
    assert fails(recipe_file("psnr"), *(w for s in settings for w in ("--set", s))).startswith(
        says.format(folder=folder)
    )


@pytest.mark.parametrize("case", ["20x20", "text", "16 bit"])
def test_validation_pictures_that_cannot_be_used(fails, recipe_file, tmp_path, case):
    write, says = DATA[case]
    folder = tmp_path / "data"
    folder.mkdir()
    if case == "20x20":
        says = "validation picture small.png: NIQE needs two blocks"
        words = ["--set", "validation.metrics=[niqe]"]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    else:
        words = []
    write(folder)
    words += ["--set", f"validation.folder={folder}", "--set", f"data.cache={tmp_path / 'cache'}"]
    if case == "20x20":
        assert main([recipe_file("psnr"), *words, "-o", str(tmp_path / "other")]) == 2
    else:
        assert fails(recipe_file("psnr"), *words).startswith(says.format(folder=folder))


def test_a_misspelt_key(fails, recipe_file, tmp_path):
    content = yaml.safe_load(Path(recipe_file("psnr")).read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content | {"leraning_rate": 1}))
    line = fails(path)
    assert line.startswith(f"{path}: ")
    assert "'leraning_rate'" in line


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("data.patch=100", "mountain.png: is 64x64, smaller than data.patch 100; remove it"),
        ("data.patch=30", "data.patch 30 is no multiple of the network's scale 4"),
        ("network={name: RRDBNet, chanels: 8}", "network: "),
        ("network={name: SRCNN}", "network: "),
        ("start_from=missing.safetensors", "missing.safetensors: cannot be read: No such file or directory"),
    ],
)
def test_a_recipe_that_cannot_be(fails, recipe_file, setting, says):
    assert says in fails(recipe_file("psnr"), "--set", setting)


def test_a_parent_of_another_network(fails, recipe_file, tmp_path):
    save_checkpoint(RRDBNet(channels=16, growth=4, blocks=1), tmp_path / "wide.safetensors")
    line = fails(recipe_file("psnr"), "--set", f"start_from={tmp_path / 'wide.safetensors'}")
    assert line.startswith(f"start_from {tmp_path / 'wide.safetensors'}: is {{'name': 'RRDBNet', 'channels': 16")
    assert line.endswith("give a checkpoint of that network")


def test_a_loss_that_is_not_finite(recipe_file, tmp_path, capsys):
    words = ["--set", "optimiser.lr=1e30", "--set", "save_every=100", "-o", str(tmp_path / "run")]
    assert main([recipe_file("psnr"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("esrgan-train: step 2: l1 is ")


def test_the_real_command_and_a_folder_that_cannot_be_made(recipe_file, tmp_path):
    (tmp_path / "file").write_text("")
    with command(recipe_file("psnr"), "-o", tmp_path / "file" / "run") as child:
        _, errors = child.communicate()
    assert child.returncode == 2
    assert errors.splitlines() == [
        f"esrgan-train: {tmp_path / 'file' / 'run'}: cannot be made: Not a directory; name another with -o"
    ]


def test_the_folder_is_named_after_the_recipe(recipe_file, tmp_path, monkeypatch):
    """Also where the recipe is somewhere else: nothing is written beside it."""
    monkeypatch.chdir(tmp_path)
    assert main([recipe_file("psnr"), "--set", "steps=1"]) == 0
    assert {path.name for path in (tmp_path / "runs" / "psnr").iterdir()} >= {STATE, RECIPE, LAST, "log.jsonl"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


# doctor, new, list


def test_the_doctor_examines_with_the_recipes_patch_and_says_what_it_costs(recipe_file, pictures, capsys):
    assert main(["doctor", "--recipe", recipe_file("psnr")]) == 0
    out = capsys.readouterr().out
    assert f"{pictures}: 4 pictures" in out
    assert "0 errors" in out
    seconds = float(out.split("time")[1].split()[0])
    assert 0 < seconds < 60
    assert "h for 6 steps" in out
    assert "GiB while training" in out
    assert main(["doctor", "--recipe", recipe_file("psnr"), "--set", "data.patch=68"]) == 2
    captured = capsys.readouterr()
    assert "brushes.png" in captured.out
    assert "would stop training" in captured.err


def test_the_doctor_finds_a_picture_in_training_and_in_validation(pictures, tmp_path, capsys):
    shutil.copy(pictures / "dogs.png", tmp_path / "holdout.png")
    assert main(["doctor", str(pictures), "--validation", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert any("holdout.png" in line and "dogs.png" in line for line in captured.out.splitlines())
    assert captured.err.count("\n") == 1


def test_a_doctor_with_nothing_to_examine(capsys):
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "esrgan-train doctor: nothing to check: name folders of pictures, or --recipe\n"


def test_a_new_recipe_is_the_packages_and_never_replaces_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "debug/psnr"]) == 0
    assert capsys.readouterr().out == "debug-psnr.yaml\n"
    text = Path("debug-psnr.yaml").read_text()
    assert text == recipe_text("debug/psnr")
    Path("debug-psnr.yaml").write_text("mine")
    assert main(["new", "debug/psnr"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("debug-psnr.yaml").read_text() == "mine"
    assert main(["new", "debug/psnr", "-o", "mine.txt"]) == 2
    assert "change the suffix" in capsys.readouterr().err


def test_the_list_has_every_recipe_with_its_cost(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(" GPU h  " in line for line in lines)
