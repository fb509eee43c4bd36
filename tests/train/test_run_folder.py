"""Nothing of others in a run's folder is removed or overwritten, and a damaged log costs its damaged lines only."""

import os

import pytest

from esrgan_deploy.errors import EsrganError, OptionError
from esrgan_train import loop
from esrgan_train.loop import train
from esrgan_train.run_folder import remove_abandoned
from tiny import read_log, read_state, train_until

OTHERS = {
    "a recipe of one's own": "recipe.yaml",
    "a log of something else": "log.jsonl",
    "weights of another run": "last.safetensors",
    "the best weights of another run": "best.safetensors",
}


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("what", OTHERS)
def test_files_that_no_run_made(what, resume, make_recipe, tmp_path):
    (tmp_path / OTHERS[what]).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OptionError, match=f"{OTHERS[what]}: .*; name another folder with -o$"):
        train(make_recipe("psnr"), tmp_path, resume=resume)
    assert content(tmp_path) == before


def test_files_of_other_names_stay(make_recipe, tmp_path):
    names = [".notes.part1", ".state.part.pt", ".state.0123.part.pt", ".other.01234567.part.pt", "notes.txt"]
    for name in names:
        (tmp_path / name).write_text("mine")
    train(make_recipe("psnr", "steps=1"), tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in names)


def test_what_a_killed_save_left_is_removed(tmp_path):
    (tmp_path / ".state.0123abcd.part.pt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".state.76543210.part.pt").symlink_to(tmp_path / "folder")
    remove_abandoned(tmp_path / "state.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".state.76543210.part.pt"}


def test_a_run_that_saved_nothing_yet_is_begun_again(make_recipe, tmp_path):
    train(make_recipe("psnr", "steps=1"), tmp_path)
    for name in (loop.STATE, loop.LAST):
        (tmp_path / name).unlink()
    train(make_recipe("psnr", "steps=2"), tmp_path)
    assert read_state(tmp_path)["step"] == 2
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


def test_weights_whose_state_was_removed_are_not_overwritten(make_recipe, tmp_path):
    train(make_recipe("psnr", "steps=1"), tmp_path)
    (tmp_path / loop.STATE).unlink()
    before = content(tmp_path)
    with pytest.raises(OptionError, match=r"last\.safetensors: would be overwritten, and its state\.pt is gone"):
        train(make_recipe("psnr"), tmp_path)
    assert content(tmp_path) == before


def test_links_are_not_written_through(make_recipe, tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    train(make_recipe("psnr", "steps=1"), folder)
    for name in ("log.jsonl", "last.safetensors"):
        (folder / name).unlink()
        (folder / name).symlink_to(victim)
    train(make_recipe("psnr", "steps=2"), folder, resume=True)
    assert victim.read_text() == "mine"
    assert not (folder / "log.jsonl").is_symlink()


DAMAGED_LINES = [
    '{"step": 1',
    "[1]",
    "3",
    '{"step": "1"}',
    '{"what": "train"}',
    "[" * 100_000,
    '{"step": ' + "9" * 5000 + "}",
    "\udcff\udcfe",
    "",
]


def test_damaged_lines_of_the_log_cost_no_other_line(make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe("psnr")
    train_until(monkeypatch, recipe, tmp_path, 3)
    log = tmp_path / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*DAMAGED_LINES, *lines]), encoding="utf-8", errors="surrogateescape")
    train(recipe, tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.unix("makes pipes and links to devices")
@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros"])
def test_a_log_that_is_no_file(kind, make_recipe, tmp_path):
    train(make_recipe("psnr", "steps=1"), tmp_path)
    log = tmp_path / "log.jsonl"
    log.unlink()
    if kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    else:
        log.symlink_to("/dev/zero")
    with pytest.raises(EsrganError, match=r"log\.jsonl: is a \w+; remove it"):
        train(make_recipe("psnr"), tmp_path, resume=True)


@pytest.mark.unix("makes a pipe")
def test_a_folder_that_is_a_pipe(make_recipe, tmp_path):
    os.mkfifo(tmp_path / "run")
    with pytest.raises(EsrganError, match="cannot be made: File exists; name another with -o"):
        train(make_recipe("psnr"), tmp_path / "run")
