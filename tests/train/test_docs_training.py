"""docs/training.md: its commands run or at least mean something, and every test that it names is there."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the 'train' extra")

from esrgan_export.cli import export
from esrgan_train import cli
from esrgan_train.recipe import load_recipe

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "training.md").read_text(encoding="utf-8")
TRAPS = re.split(r"^\d+\. ", PAGE.split("## What naive code gets wrong")[1], flags=re.MULTILINE)[1:]


def commands(language):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    lines = [line for found, block in blocks if found == language for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def test_the_first_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, *words in commands("console"):
        assert {"esrgan-train": cli.main, "esrgan-export": export.main}[name](words) == 0, words
    assert list(Path("models").glob("*.onnx"))
    for file in re.findall(r"^\| `([a-z.]+)`", PAGE.split("## The folder of a run")[1].split("##")[0], re.MULTILINE):
        assert Path("runs/debug/gan", file).exists() != (file == "best.safetensors"), file


def test_the_other_commands_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    understood = 0
    for name, *words in commands(""):
        if name != "esrgan-train" or words[0] == "doctor":
            continue
        if words[0] in ("list", "new"):
            assert cli.main(words) == 0
        elif words[0] == "qat":
            cli._qat_parser().parse_args(words[1:])
        else:
            arguments = cli._parser().parse_args(words)
            load_recipe(arguments.recipe, arguments.settings)
        understood += 1
    assert understood >= 6


def test_each_of_the_twenty_three_traps_has_tests_that_exist():
    assert len(TRAPS) == 23
    for number, trap in enumerate(TRAPS, 1):
        tests = re.findall(r"- `(\S+)::(\w+)`", trap)
        assert tests, number
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), (
                f"{number}: {file}::{name}"
            )
