"""2N steps equal N + resume + N, bit for bit, whatever ended the first half."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from esrgan_deploy import ModelError, OptionError
from esrgan_train import cli, loop
from esrgan_train.loop import train
from tiny import assert_same_run, command, hidden, interrupt_in_step, read_log, read_state, train_until

STEPS = 60


@pytest.mark.parametrize("kind", ["psnr", "residual", "gan", "wgan"])
def test_a_run_in_two_halves_is_the_run(kind, make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe(kind)
    train(recipe, tmp_path / "whole")
    train_until(monkeypatch, recipe, tmp_path / "halves", 3)
    assert read_state(tmp_path / "halves")["step"] == 3
    torch.manual_seed(123)
    train(recipe, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_validation_and_saving_do_not_disturb_training(make_recipe, pictures, tmp_path):
    train(make_recipe("wgan", "save_every=100"), tmp_path / "plain")
    settings = [f"validation.folder={pictures}", "validation.every=1", "save_every=1", "log_every=2"]
    train(make_recipe("wgan", *settings), tmp_path / "watched")
    plain, watched = read_state(tmp_path / "plain"), read_state(tmp_path / "watched")
    assert all(torch.equal(plain["generator"][key], watched["generator"][key]) for key in plain["generator"])


def test_the_best_score_survives_and_the_log_has_no_line_twice(make_recipe, pictures, tmp_path, monkeypatch):
    settings = [f"validation.folder={pictures}", "validation.every=2", "validation.best=psnr", "save_every=3"]
    recipe = make_recipe("psnr", *settings)
    train(recipe, tmp_path / "whole")
    train_until(monkeypatch, recipe, tmp_path / "halves", 3)
    with (tmp_path / "halves" / "log.jsonl").open("a") as log:  # as if it had been killed a little later
        log.write('{"step": 4, "what": "train", "l1": 7}\n{"step": 5, "wh')
    train(recipe, tmp_path / "halves", resume=True)
    for what in ("train", "validation", "bicubic"):
        assert read_log(tmp_path / "whole", what) == read_log(tmp_path / "halves", what)
    assert [line["step"] for line in read_log(tmp_path / "halves")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "whole" / loop.BEST).read_bytes() == (tmp_path / "halves" / loop.BEST).read_bytes()
    assert read_state(tmp_path / "whole")["best"] == read_state(tmp_path / "halves")["best"] is not None


def freeze_while_saving(child, folder):
    """Stop the process at a moment when a state is half written; True if there was one before it ended."""
    while child.poll() is None:
        if any(folder.glob(".state.*.part.pt")):
            os.kill(child.pid, signal.SIGSTOP)
            while "State:\tT" not in Path(f"/proc/{child.pid}/status").read_text():
                time.sleep(0.001)
            if any(folder.glob(".state.*.part.pt")) and (folder / loop.STATE).exists():
                return True
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.0005)
    return False


@pytest.mark.linux("asks /proc whether a process is stopped")
def test_killed_while_it_saves(recipe_file, make_recipe, tmp_path):
    """SIGKILL of the real command, between the first and the last byte of a state; a wide network makes that long."""
    settings = ["network.channels=48", "data.patch=16", "batch=1", f"steps={STEPS}", "save_every=1"]
    folder = tmp_path / "killed"
    words = [word for setting in settings for word in ("--set", setting)]
    with command(recipe_file("psnr"), *words, "-o", folder) as child:
        caught = freeze_while_saving(child, folder)
        child.kill()
        assert caught, child.stderr.read()
    assert len(hidden(folder)) == 1, "it was killed in the middle of it"
    step = read_state(folder)["step"]
    assert 0 < step < STEPS
    recipe = make_recipe("psnr", *settings)
    train(recipe, folder, resume=True)
    train(recipe, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")
    assert hidden(folder) == []


@pytest.mark.unix("sends signals to another process")
def test_sigterm_to_the_command(recipe_file, make_recipe, tmp_path):
    folder = tmp_path / "stopped"
    with command(recipe_file("wgan"), "--set", f"steps={STEPS}", "-o", folder) as child:
        while not ((folder / "log.jsonl").exists() and (folder / "log.jsonl").read_text().count("\n") > 1):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.001)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate()
    assert child.returncode == 130
    assert errors.splitlines() == ["esrgan-train: interrupted; nothing was left half-written"]
    assert read_state(folder)["step"] < STEPS
    assert hidden(folder) == []
    recipe = make_recipe("wgan", f"steps={STEPS}")
    train(recipe, folder, resume=True)
    train(recipe, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.parametrize("tiny_disk", ["2m"], indirect=True)
def test_a_disk_that_is_full_in_the_middle_of_a_save(
    recipe_file, make_recipe, tiny_disk, tmp_path, monkeypatch, capsys
):
    folder = tiny_disk / "run"
    recipe = make_recipe("gan", "save_every=1")
    train_until(monkeypatch, recipe, folder, 2)
    before = (folder / loop.STATE).read_bytes()
    room = shutil.disk_usage(tiny_disk).free - len(before) // 2 - (folder / loop.LAST).stat().st_size
    (tiny_disk / "filler").write_bytes(bytes(room))
    arguments = [recipe_file("gan"), "--set", "save_every=1", "-o", str(folder), "--resume"]
    capsys.readouterr()
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"esrgan-train: {folder / loop.STATE}: cannot be written: No space left on device")
    assert hidden(folder) == []
    assert (folder / loop.STATE).read_bytes() == before
    (tiny_disk / "filler").unlink()
    assert cli.main(arguments) == 0
    train(recipe, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_a_second_signal_ends_it_at_once(make_recipe, tmp_path, monkeypatch):
    real = loop.train_step

    def twice(model, batches, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return real(model, batches, step)

    monkeypatch.setattr(loop, "train_step", twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe("psnr"), tmp_path)
    assert read_state(tmp_path)["step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_the_last_step_interrupts_nothing(make_recipe, tmp_path, monkeypatch):
    interrupt_in_step(monkeypatch, 6)
    train(make_recipe("psnr"), tmp_path)
    assert read_state(tmp_path)["step"] == 6


def test_resume_without_a_state_begins(make_recipe, tmp_path):
    train(make_recipe("psnr"), tmp_path / "begun")
    train(make_recipe("psnr"), tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "begun", tmp_path / "resumed")


def test_a_complete_run_has_nothing_left_to_do(make_recipe, tmp_path):
    train(make_recipe("psnr"), tmp_path)
    before = {
        path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".pt", ".safetensors", ".jsonl")
    }
    train(make_recipe("psnr"), tmp_path, resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_that_holds_a_run_is_not_overwritten(make_recipe, tmp_path):
    train(make_recipe("psnr"), tmp_path)
    before = (tmp_path / loop.STATE).read_bytes()
    with pytest.raises(OptionError, match="holds a run already; go on with it by --resume"):
        train(make_recipe("psnr"), tmp_path)
    assert (tmp_path / loop.STATE).read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["optimiser.lr=0.5"], "optimiser.lr was 0.001 and is 0.5"),
        (["losses=[{loss: mse}]"], "losses.0.loss was 'l1' and is 'mse'"),
        (["batch=3", "compared_with=something", "log_every=7"], "batch was 2 and is 3"),
        (["clip_gradient=1"], "clip_gradient was None and is 1.0"),
    ],
)
def test_a_state_of_another_recipe(make_recipe, tmp_path, settings, says):
    train(make_recipe("psnr"), tmp_path)
    with pytest.raises(OptionError, match=f"state.pt: belongs to another recipe: {says}; set it back"):
        train(make_recipe("psnr", *settings), tmp_path, resume=True)


def test_how_often_it_is_logged_may_change(make_recipe, tmp_path, monkeypatch):
    train_until(monkeypatch, make_recipe("psnr"), tmp_path, 3)
    train(make_recipe("psnr", "log_every=6", "description=renamed"), tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 6]
    assert "description: renamed" in (tmp_path / "recipe.yaml").read_text()


def test_a_state_of_another_number_of_processes(make_recipe, tmp_path):
    train(make_recipe("psnr"), tmp_path)
    state = read_state(tmp_path)
    torch.save(state | {"processes": state["processes"] * 2}, tmp_path / loop.STATE)
    with pytest.raises(OptionError, match="was saved by 2 processes, not 1; go on with --devices 2"):
        train(make_recipe("psnr"), tmp_path, resume=True)


def test_a_parent_that_has_changed(make_recipe, tmp_path, monkeypatch):
    train(make_recipe("psnr"), tmp_path / "parent")
    train(make_recipe("psnr", "optimiser.lr=0.1"), tmp_path / "other")
    recipe = make_recipe("gan", f"start_from={tmp_path / 'parent' / loop.LAST}")
    train_until(monkeypatch, recipe, tmp_path / "gan", 2)
    shutil.copy(tmp_path / "other" / loop.LAST, tmp_path / "parent" / loop.LAST)
    with pytest.raises(OptionError, match=r"start_from .*last.safetensors: is not what .*state.pt started from"):
        train(recipe, tmp_path / "gan", resume=True)


class Bomb:
    """Unpickled by an ordinary reader, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "not a state", "bomb"])
def test_a_damaged_state(make_recipe, tmp_path, damage):
    train(make_recipe("psnr"), tmp_path)
    path = tmp_path / loop.STATE
    content = path.read_bytes()
    if damage == "bomb":
        torch.save(read_state(tmp_path) | {"step": Bomb(tmp_path / "crater")}, path)
    elif damage == "not a state":
        torch.save({"params": {}}, path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"step: 3"}[damage])
    with pytest.raises(ModelError, match=r"state.pt: .*; take another copy, or begin in a new folder with -o$"):
        train(make_recipe("psnr"), tmp_path, resume=True)
    assert not (tmp_path / "crater").exists()


def test_a_state_of_another_version(make_recipe, tmp_path):
    train(make_recipe("psnr"), tmp_path)
    torch.save(read_state(tmp_path) | {"format": 2}, tmp_path / loop.STATE)
    with pytest.raises(ModelError, match="has format 2, this version reads 1"):
        train(make_recipe("psnr"), tmp_path, resume=True)
